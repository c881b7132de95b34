"""What the rule costs: against the copy of its tensor, against sorting, and in whole models.

    python -m benchmarks.bench_rule [--peer DIR] [--quick]

Prints the floor first (the measured copy rate), then a table of medians and ratios, each ratio taken
within this run, and JSON last; the JSON is kept in ``benchmarks/results/``. It runs on the GPU if
there is one, otherwise on the CPU. ``--peer``: a checkout of the paper's repository, to time its top-p beside ours.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import sparsedial as sd
from benchmarks.environment import describe_machine, device_slug, package_versions, save_result
from benchmarks.timing import Call, median_seconds, time_call
from sparsedial.cache_arguments import cache_argument, returned_cache
from sparsedial.kernels import reference
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules import TopP

P = 0.9


def sort32(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-p by sorting, in float32 and without a stable order: the fairest sort we could write."""
    size = x.float().abs()
    ordered, order = size.sort(-1, descending=True)
    mass = ordered.cumsum(-1)
    kept = (mass < P * mass[..., -1:]).sum(-1, dtype=torch.int32) + 1
    keep = torch.arange(x.shape[-1], device=x.device) < kept[..., None]
    return x * torch.zeros_like(keep).scatter_(-1, order, keep), kept


def paper(directory: str | None) -> Callable[[torch.Tensor], Any] | None:
    """The paper's top-p as its hooks call it: mask, product, and the counts copied to the host."""
    if directory is None:
        return None
    package = types.ModuleType("lm_eval")
    package.__path__ = [str(Path(directory) / "sparsified_harness" / "lm_eval")]
    sys.modules["lm_eval"] = package  # spares us the whole harness
    mask_of = importlib.import_module("lm_eval.sparsification_manager").get_topp_mask

    def run(x: torch.Tensor) -> Any:
        mask = mask_of(x[None], P)
        return x[None] * mask, (~mask).sum(-1).detach().cpu().tolist()

    return run


def in_graph(call: Callable[[int], Any], n: int) -> float:
    """Seconds of one of ``n`` calls in a CUDA graph (the median of its replays)."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(n):
            call(i)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(n):
                call(i)
    times = []
    for _ in range(12):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / n / 1e3)
    return statistics.median(times[2:])


def vectors(rows: int, width: int, dtype: torch.dtype, device: str, kind: str = "normal") -> torch.Tensor:
    """Return random rows, or random products like those of a gated FFN if kind is swiglu."""
    x = torch.randn(rows, width, device=device)
    if kind == "swiglu":
        x *= torch.nn.functional.silu(torch.randn(rows, width, device=device))
    return x.to(dtype)


def rule_on_cpu(quick: bool, peer: Callable[[torch.Tensor], Any] | None) -> list[dict[str, Any]]:
    """Time the rule on 1024 rows on the CPU, next to sorting and to the peer."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for width in (576, 1536) if quick else (576, 1536, 4096, 14336):
            x = vectors(1024, width, dtype, "cpu")
            calls: dict[str, Call] = {
                "ours": lambda x=x: sd.apply_rule(x, sd.TopP(P)),
                "sort": lambda x=x: reference.select(x, TopP(P)),
                "sort32": lambda x=x: sort32(x),
            }
            if peer:
                calls["paper"] = lambda x=x: peer(x)
            fast = median_seconds({"ours": calls["ours"], "copy": x.clone}, 1.0, 9)
            t = median_seconds(calls, 2.0) | fast
            row = {"what": "rule", "device": "cpu", "dtype": str(dtype)[6:], "shape": [1024, width]}
            row |= {
                "ms": t["ours"] * 1e3,
                "ns_per_element": t["ours"] / x.numel() * 1e9,
                "over_copy": t["ours"] / t["copy"],
            }
            row |= {f"{name}_over_ours": t[name] / t["ours"] for name in calls if name != "ours"}
            rows.append(row)
            say(row)
    return rows


def rule_on_gpu(rate: float, peer: Callable[[torch.Tensor], Any] | None) -> list[dict[str, Any]]:
    """Time the rule on the GPU, as a multiple of the time that reading and writing the rows takes."""
    rows = []
    for n, width in ((4096, 4096), (4096, 14336), (2048, 28672)):
        for kind in ("normal", "swiglu"):
            xs = [vectors(n, width, torch.bfloat16, "cuda", kind) for _ in range(3)]
            floor = 2 * xs[0].numel() * 2 / rate
            seconds = in_graph(lambda i, xs=xs: sd.apply_rule(xs[i % 3], sd.TopP(P)), 12)
            row = {"what": "rule", "device": "cuda", "dtype": "bfloat16", "shape": [n, width], "values": kind}
            row |= {"us": seconds * 1e6, "floor_us": floor * 1e6, "over_floor": seconds / floor}
            calls: dict[str, Call] = {"sort": lambda x=xs[0]: reference.select(x, TopP(P))}
            if peer:
                calls["paper"] = lambda x=xs[0]: peer(x)
            row |= {f"{name}_over_floor": t / floor for name, t in median_seconds(calls, 1.0).items()}
            rows.append(row)
            say(row)
    for width in (4096, 14336):
        for kind in ("normal", "swiglu"):
            xs = [vectors(1, width, torch.bfloat16, "cuda", kind) for _ in range(64)]
            bound = BoundRule(TopP(P))  # as a dial calls the op
            seconds = in_graph(lambda i, xs=xs, bound=bound: bound(xs[i % 64]), 192)
            row = {"what": "one vector, CUDA graph", "device": "cuda", "dtype": "bfloat16", "shape": [1, width]}
            row |= {"values": kind, "us": seconds * 1e6}
            if peer:
                row["paper_us"] = median_seconds({"paper": lambda x=xs[0]: peer(x)}, 0.5)["paper"] * 1e6
            rows.append(row)
            say(row)
    return rows


def model(device: str, dtype: torch.dtype) -> Any:
    """Random weights in the shape of SmolLM2-135M (CPU), of four layers of Llama-3.1-8B (GPU)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    size |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}
    if device == "cuda":
        size = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 4}
        size |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(**size)).to(dtype).eval()


@torch.inference_mode()
def whole_model(device: str, dtype: torch.dtype, quick: bool) -> list[dict[str, Any]]:
    """A forward and a decode step, dense and with all_inputs sparsified and counted, in turns.

    Two models with the same weights, one of them sparsified throughout, so that a pair is measured within moments
    and what is only done now and then (adding the counts up) is in the means.
    """
    dense = model(device, dtype)
    same = {id(t): t for t in (*dense.parameters(), *dense.buffers())}
    nets = {False: dense, True: copy.deepcopy(dense, same)}
    batch, length = (8, 512) if device == "cuda" else (8, 128)
    tokens = torch.randint(dense.config.vocab_size, (batch, length), device=device)
    caches = {sparse: returned_cache(net(tokens[:1], use_cache=True)) for sparse, net in nets.items()}

    def forward(sparse: bool) -> None:
        nets[sparse](tokens, use_cache=False, logits_to_keep=1 if device == "cuda" else 0)

    def step(sparse: bool) -> None:
        nets[sparse](tokens[:1, :1], **{cache_argument(nets[sparse].forward): caches[sparse]}, use_cache=True)
        caches[sparse].crop(-1)

    rows = []
    head = {"device": device, "dtype": str(dtype)[6:], "site": "all_inputs", "rule": f"top_p {P}"}
    for what, call, pairs in ((f"forward {batch}x{length}", forward, 12), ("decode step", step, 600)):
        pairs = pairs // 3 if quick else pairs
        with sd.sparsify(nets[True], site="all_inputs", rule=sd.TopP(P)):
            for sparse in nets:
                call(sparse)
            times: dict[bool, list[float]] = {False: [], True: []}
            for turn in range(pairs):
                for sparse in (False, True) if turn % 2 else (True, False):
                    times[sparse].append(time_call(partial(call, sparse)))
        ratios = [s / d for d, s in zip(times[False], times[True], strict=True)]
        mean, quartiles = {s: statistics.mean(t) for s, t in times.items()}, statistics.quantiles(ratios, n=4)
        row = {"what": what, **head}
        row |= {f"{name}_ms": statistics.median(times[s]) * 1e3 for s, name in ((False, "dense"), (True, "sparse"))}
        row |= {"over_dense": quartiles[1], "quartiles": [quartiles[0], quartiles[2]]}
        row["means_over_dense"] = mean[True] / mean[False]
        if device == "cuda":
            row["syncs_added"] = synchronisations(nets[True], call, True) - synchronisations(nets[False], call, False)
        rows.append(row)
        say(row)
    return rows


def synchronisations(net: Any, call: Callable[[bool], None], sparse: bool) -> int:
    """Waits of the host for the device during one call, by the profiler."""
    from contextlib import nullcontext

    with sd.sparsify(net, site="all_inputs", rule=sd.TopP(P)) if sparse else nullcontext():
        call(sparse)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            call(sparse)
    waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")
    return sum(event.count for event in profile.key_averages() if event.key in waits)


def copy_rate(device: str) -> float:
    """Bytes per second of copying a tensor larger than the caches, read and written bytes both counted."""
    x = torch.ones((1 << 30 if device == "cuda" else 1 << 26), dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    return 2 * x.numel() / median_seconds({"copy": lambda: y.copy_(x)}, 0.5, 9)["copy"]


def say(row: dict[str, Any]) -> None:
    """Print one row of the results."""
    row = {k: [round(x, 3) for x in v] if k == "quartiles" else v for k, v in row.items()}
    cells = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" if k != "what" else str(v) for k, v in row.items())
    print(" | ".join(cells), flush=True)


def main() -> None:
    """Measure the rule on the devices at hand, print the rows and store them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="DIR", help="a checkout of the paper's repository")
    parser.add_argument("--quick", action="store_true", help="fewer widths and turns")
    options = parser.parse_args()
    peer = paper(options.peer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine, versions = describe_machine(), package_versions()
    print(", ".join(f"{k} {v}" for k, v in {**machine, **versions}.items()))

    rate = copy_rate(device)
    print(f"floor: copying on {device} moves {rate / 1e9:.1f} GB/s (read and written)")
    if device == "cuda":
        rows = rule_on_gpu(rate, peer) + whole_model(device, torch.bfloat16, options.quick)
    else:
        rows = rule_on_cpu(options.quick, peer)
        for dtype in (torch.float32, torch.bfloat16):
            rows += whole_model(device, dtype, options.quick)
    result = {
        "machine": machine,
        "versions": versions,
        "p": P,
        "copy_gb_per_s": {device: rate / 1e9},
        "rows": rows,
    }
    save_result(f"rule-{device_slug()}", result)


if __name__ == "__main__":
    main()
