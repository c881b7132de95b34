"""What measuring a mixture of experts costs: one layer, sparsified and counted, against transformers' fastest.

    python -m benchmarks.bench_moe [--tokens N] [--seconds S] [--profile] [--out FILE]

On a GPU: a tiny layer and one in the shape of Qwen3-30B-A3B (hidden 2048, 128 experts of width 768, 8 active),
random weights, bfloat16, 4096 tokens; on a CPU smaller ones. Printed: first the floors and every experts
implementation that transformers has, then our forward with no rule, then sparsified, each as the median of calls
taken in turns and as a ratio to the fastest dense one in the same turn. Outputs are compared before anything is
timed; the last line is JSON, which ``--out`` keeps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

import sparsedial as sd
from benchmarks.environment import describe_machine, package_versions
from benchmarks.timing import time_call
from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.moe.stacked_experts import ExpertTap

P = 0.9
BAR = 1.25
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
SHAPES = {
    "cuda": {"tiny": (256, 8, 2, 128), "Qwen3-30B-A3B": (2048, 128, 8, 768)},  # hidden, experts, active, width
    "cpu": {"tiny": (64, 4, 2, 32), "small": (256, 32, 4, 96)},
}
Call = Callable[[], torch.Tensor]


class Layer(nn.Module):
    """The MoE block of one layer, router included, as a model that a dial can be attached to."""

    def __init__(self, hidden: int, experts: int, active: int, width: int) -> None:
        super().__init__()
        self.config = Qwen3MoeConfig(
            hidden_size=hidden, num_experts=experts, num_experts_per_tok=active, moe_intermediate_size=width,
            norm_topk_prob=True, experts_implementation="grouped_mm",
        )  # fmt: skip
        self.mlp = Qwen3MoeSparseMoeBlock(self.config)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(std=p.shape[-1] ** -0.5)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """``hidden_states [1, tokens, hidden]``."""
        return self.mlp(hidden_states)


@contextmanager
def dense(layer: Layer, implementation: str) -> Iterator[None]:
    """One of transformers' own."""
    layer.config._experts_implementation = implementation
    try:
        yield
    finally:
        layer.config._experts_implementation = "grouped_mm"


@contextmanager
def ours(layer: Layer) -> Iterator[None]:
    """Our forward, with a tap that does nothing."""
    tap = ExpertTap(layer.mlp.experts, "intermediate", lambda i, _: i)
    try:
        yield
    finally:
        tap.remove()


def fits(layer: Layer, x: torch.Tensor) -> bool:
    """Whether batched_mm, which copies the weights of every (token, expert) pair, has the memory for it."""
    experts, pairs = layer.mlp.experts, x.shape[1] * layer.config.num_experts_per_tok
    need = pairs * (experts.gate_up_proj[0].numel() + experts.down_proj[0].numel()) * x.element_size()
    free = torch.cuda.mem_get_info()[0] if x.is_cuda else 2 << 30
    return need < 0.8 * free


def check(layer: Layer, x: torch.Tensor, names: list[str], ffns: Any) -> dict[str, Any]:
    """Every implementation computes the same, ours the same bits as grouped_mm; and nobody waits for the device."""
    grouped = layer(x)
    scale = float(grouped.float().abs().mean())
    seen: dict[str, Any] = {}
    for name in names:
        with dense(layer, name):
            seen[f"{name} differs by"] = float((layer(x) - grouped).float().abs().max()) / scale
        if seen[f"{name} differs by"] > (0.1 if x.dtype == torch.bfloat16 else 1e-3):
            raise SystemExit(f"{name} computes something else: {seen}")
    with ours(layer):
        seen["ours is grouped_mm, bit for bit"] = torch.equal(layer(x), grouped)
    with sd.sparsify(layer, "intermediate", sd.TopP(1), ffns=ffns) as sparsifier:
        seen["p = 1 is grouped_mm, bit for bit"] = torch.equal(layer(x), grouped)
    pairs = x.shape[1] * layer.config.num_experts_per_tok
    seen["every pair is counted"] = int(sparsifier.stats()["tokens"].sum()) == pairs
    with sd.sparsify(layer, "intermediate", sd.TopP(P), ffns=ffns) as sparsifier:
        layer(x)
        sparsifier.flush()  # the first time, constants go to the device
        waited = waits(lambda: (layer(x), sparsifier.flush()), x)
    seen["nobody waits for the device who did not"] = not waited or waits(lambda: layer(x), x)
    seen["sparsity"] = sparsifier.sparsity()
    if not all(v for k, v in seen.items() if isinstance(v, bool)):
        raise SystemExit(f"wrong: {seen}")
    return seen


def waits(call: Callable[[], Any], x: torch.Tensor) -> bool:
    """Whether the host waits for the GPU in this call."""
    if not x.is_cuda:
        return False
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        print(f"the host waits for the device: {error}")
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def seconds(call: Call, x: torch.Tensor, burst: int, sparsifier: Any = None) -> float:
    """Of one call in a burst, waited for at its end: on a GPU what the device needs, or the host where that is more.

    Counts that a dial has put off are added up within that time.
    """

    def run() -> None:
        for _ in range(burst):
            call()
        if isinstance(sparsifier, Sparsifier):
            sparsifier.flush()

    return time_call(run) / burst


def floors(x: torch.Tensor, layer: Layer) -> dict[str, float]:
    """The least time that the matmuls and the reading and writing of i can take, at rates measured here."""
    pairs, c = x.shape[1] * layer.config.num_experts_per_tok, layer.config
    n = 8192 if x.is_cuda else 1024
    a = torch.randn(n, n, device=x.device, dtype=x.dtype)
    copied = torch.empty(1 << (30 if x.is_cuda else 25), dtype=torch.uint8, device=x.device)
    other = torch.empty_like(copied)
    for call in (lambda: a @ a, lambda: other.copy_(copied)):
        seconds(call, x, 2)
    flops = 2 * n**3 / min(seconds(lambda: a @ a, x, 3) for _ in range(3))
    rate = 2 * copied.numel() / min(seconds(lambda: other.copy_(copied), x, 3) for _ in range(3))
    work = 2 * 3 * pairs * c.hidden_size * c.moe_intermediate_size
    rule = 2 * pairs * c.moe_intermediate_size * x.element_size()
    return {"tflop_per_s": flops / 1e12, "gb_per_s": rate / 1e9, "matmuls_ms": work / flops * 1e3,
            "rule_ms": rule / rate * 1e3}  # fmt: skip


@torch.inference_mode()
def measure(name: str, device: str, tokens: int, budget: float, profile: bool) -> dict[str, Any]:
    """One layer's table."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shape = SHAPES[device][name]
    with torch.device(device):
        layer = Layer(*shape).to(dtype).eval()
        x = torch.randn(1, tokens, shape[0]).to(dtype)
    ffns = sd.find_ffns(layer, inputs={"hidden_states": x[:, :6]})
    print(f"\n{name}: hidden {shape[0]}, {shape[1]} experts of width {shape[3]}, {shape[2]} active, {tokens} tokens, "
          f"{str(dtype)[6:]}")  # fmt: skip
    names = [i for i in IMPLEMENTATIONS if i != "batched_mm" or fits(layer, x)]
    if "batched_mm" not in names:
        print("batched_mm would copy more weights than there is memory for: left out")
    floor, checked = floors(x, layer), check(layer, x, names, ffns)
    print(f"floor: {floor['matmuls_ms']:.3f} ms of matmuls at {floor['tflop_per_s']:.0f} TFLOP/s, "
          f"{floor['rule_ms']:.3f} ms to read and write i at {floor['gb_per_s']:.0f} GB/s (both measured)")  # fmt: skip
    dials = {site: sd.sparsify(layer, site, sd.TopP(P), ffns=ffns) for site in ("intermediate", "all_inputs")}
    runs = {i: (lambda i=i: dense(layer, i)) for i in names}
    runs |= {"ours, no rule": lambda: ours(layer)}
    runs |= {f"{site}, top_p {P}, counted": (lambda d=d: d) for site, d in dials.items()}
    times = in_turns(runs, lambda: layer(x), x, budget)
    fastest = min(names, key=lambda i: statistics.median(times[i]))
    rows = []
    for run, t in times.items():
        ratio = statistics.median(a / b for a, b in zip(t, times[fastest], strict=True))
        rows.append({"run": run, "ms": statistics.median(t) * 1e3, "over_fastest": ratio})
        print(f"  {run:40s} {rows[-1]['ms']:9.3f} ms   {ratio:5.2f} x {fastest}")
    bar = next(r["over_fastest"] for r in rows if r["run"].startswith("intermediate"))
    if device == "cuda":
        print(f"  bar: {bar:.2f} x, at most {BAR}: {'met' if bar <= BAR else 'NOT MET'}")
    if profile:
        for run in (fastest, f"intermediate, top_p {P}, counted"):
            print(profiled(run, runs[run], layer, x))
    return {"layer": name, "shape": shape, "tokens": tokens, "dtype": str(dtype)[6:], "floor": floor,
            "checked": checked, "fastest": fastest, "rows": rows, "bar": BAR if device == "cuda" else None}  # fmt: skip


def in_turns(runs: dict[str, Any], call: Call, x: torch.Tensor, budget: float) -> dict[str, list[float]]:
    """Seconds of a call under each of ``runs``, taken in turns so that a noisy neighbour disturbs all alike."""
    burst, times = {}, {}
    for run, entered in runs.items():
        with entered() as sparsifier:
            seconds(call, x, 3, sparsifier)  # compiles, fills caches
            once = seconds(call, x, 1, sparsifier)
        burst[run], times[run] = max(1, min(20, int(0.02 / once))), []
    stop = time.perf_counter() + budget
    while time.perf_counter() < stop or len(next(iter(times.values()))) < 5:
        for run, entered in runs.items():
            with entered() as sparsifier:
                seconds(call, x, 1, sparsifier)
                times[run].append(seconds(call, x, burst[run], sparsifier))
    return times


def profiled(run: str, entered: Any, layer: Layer, x: torch.Tensor) -> str:
    """Where the time of ten calls goes."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if x.is_cuda else []
    with entered():
        layer(x)
        with torch.profiler.profile(activities=activities) as profile:
            for _ in range(10):
                layer(x)
            if x.is_cuda:
                torch.cuda.synchronize()
    by = "self_device_time_total" if x.is_cuda else "self_cpu_time_total"
    table = profile.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=70)
    return f"\n{run}, ten calls:\n{table}"


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, help="default: 4096 on a GPU, 256 on a CPU")
    parser.add_argument("--seconds", type=float, default=8.0, help="of timing, for each layer")
    parser.add_argument("--profile", action="store_true", help="also say which kernels the time goes to")
    parser.add_argument("--out", type=Path, help="keep the JSON here")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = options.tokens or (4096 if device == "cuda" else 256)
    result: dict[str, Any] = {"bench": "moe", "conditions": describe_machine() | package_versions()}
    print(", ".join(f"{k} {v}" for k, v in result["conditions"].items()))
    result["layers"] = [measure(n, device, tokens, options.seconds, options.profile) for n in SHAPES[device]]
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.flush()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
