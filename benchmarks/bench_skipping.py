"""Time what skipping weights saves on a CPU: single products, and the FFNs of a model.

    python -m benchmarks.bench_skipping [--model smollm2-135m] [--p 0.872] [--dtype float32]

The physical limit is printed first: the rate at which this machine reads memory. One line per measurement follows, and
the result as JSON last. Matrices are so many that none is in a cache when it is used again, and each contender is timed
in turns with the others, in one process. Medians are reported.

A product reads some of the rows of a matrix, which are either scattered or follow each other. The difference is the
price of the gaps. The FFNs of all layers run for one token without the rule, at p = 1, and at p. If skipping cost
nothing, the time at p would be that without the rule, times the share of the weights that is read. ``excess_us`` is the
time beyond that.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

import sparsedial as sd
from benchmarks.decode_contenders import OWN_DENSE, OWN_P1, Contender
from benchmarks.environment import describe_machine, package_versions, save_result
from benchmarks.timing import measure_read_rate, median_seconds
from sparsedial.acceleration.backend import ProductLimits
from sparsedial.acceleration.cpu_products import KeptInputs
from sparsedial.acceleration.weight_layout import join_rows

COLD_BYTES = 192 << 20  # of the matrices that are used in turns
SHARES = (0.02, 0.25, 0.5, 0.75, 1.0)
PROMPT = "The tides follow the moon, and the moon follows"


def make_vector(rows: int, share: float, pattern: str, generator: torch.Generator) -> torch.Tensor:
    """Return a vector of which a share of the entries is not zero.

    Args:
        rows: Number of entries.
        share: Share of the entries.
        pattern: "scattered", or "together" for the first entries of each quarter, which is what a thread reads.
        generator: Source of the entries and of their places.
    """
    x = torch.randn(1, rows, generator=generator)
    kept = torch.zeros(rows, dtype=torch.bool)
    if pattern == "scattered":
        kept[torch.randperm(rows, generator=generator)[: round(share * rows)]] = True
    else:
        quarter = -(-rows // 4)
        kept = torch.arange(rows) % quarter < round(share * quarter)
    return x * kept


def measure_product(rows: int, columns: int, dtype: torch.dtype, seconds: float) -> list[dict[str, Any]]:
    """Time products that read a share of the rows of a matrix, scattered and together."""
    generator = torch.Generator().manual_seed(0)
    row_bytes = columns * dtype.itemsize
    products = []
    for _ in range(max(2, COLD_BYTES // (rows * row_bytes))):
        weight = torch.randn(rows, columns, generator=generator).to(dtype)
        products.append(KeptInputs(join_rows([weight]), None, ProductLimits()))
    calls: dict[str, Callable[[], Any]] = {}
    cases: dict[str, dict[str, Any]] = {}
    for pattern in ("scattered", "together"):
        for share in SHARES:
            vectors = [make_vector(rows, share, pattern, generator).to(dtype) for _ in products]
            kept = statistics.mean(int((x != 0).sum()) for x in vectors)
            name = f"{pattern} {share}"
            cases[name] = {"matrix": f"{rows}x{columns}", "pattern": pattern, "share": share, "bytes": kept * row_bytes}
            calls[name] = partial(call_each, products, vectors)
    lines = []
    for name, pass_seconds in median_seconds(calls, seconds).items():
        median = pass_seconds / len(products)
        size = cases[name].pop("bytes")
        lines.append({**cases[name], "us": round(1e6 * median, 1), "gb_per_s": round(size / median / 1e9, 1)})
    return lines


def call_each(functions: Sequence[Callable[[torch.Tensor], Any]], vectors: Sequence[torch.Tensor]) -> None:
    """Call each function with its vector."""
    for function, x in zip(functions, vectors, strict=True):
        function(x)


@torch.inference_mode()
def measure_ffns(model: Any, tokenizer: Any, p: float, seconds: float) -> list[dict[str, Any]]:
    """Time the FFNs of all layers of a model of the Llama family, for the vectors of the last token of a prompt."""
    vectors: list[torch.Tensor] = []
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _module, args: vectors.append(args[0][:, -1:].clone()))
        for layer in model.model.layers
    ]
    model(**tokenizer(PROMPT, return_tensors="pt"))
    for handle in handles:
        handle.remove()
    contenders = {"no rule": OWN_DENSE, "p = 1": OWN_P1, f"p = {p}": Contender(p)}
    calls: dict[str, Callable[[], Any]] = {}
    with ExitStack() as stack:
        accelerated: dict[str, Any] = {}
        for name, contender in contenders.items():
            copied = copy.deepcopy(model)
            accelerated[name] = stack.enter_context(contender.attach(copied))
            calls[name] = partial(call_each, [layer.mlp for layer in copied.model.layers], vectors)
        times = {name: median / len(vectors) for name, median in median_seconds(calls, seconds).items()}
        read_shares = {name: fast.report().read_share for name, fast in accelerated.items()}
    lines = []
    for name, median in times.items():
        read_share = read_shares[name]
        excess = median - read_share * times["no rule"]
        line = {"ffn": name, "read_share": round(read_share, 3), "us": round(1e6 * median, 1)}
        lines.append({**line, "excess_us": round(1e6 * excess, 1)})
    return lines


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="A model of the Llama family. Default: smollm2-135m.")
    parser.add_argument("--p", type=float, default=0.872, help="Parameter of top-p. Default: 0.872.")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="Dtype.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Seconds of each comparison. Default: 10.")
    arguments = parser.parse_args()
    limit = measure_read_rate()
    print(f"physical limit: memory is read at {limit:.1f} GB/s with {torch.get_num_threads()} threads", flush=True)
    model, tokenizer = sd.load_model(arguments.model, device="cpu", dtype=arguments.dtype)
    ffn = model.model.layers[0].mlp
    inner, hidden = ffn.up_proj.weight.shape
    dtype = ffn.up_proj.weight.dtype
    results: list[dict[str, Any]] = []
    for measured in (
        lambda: measure_product(hidden, 2 * inner, dtype, arguments.seconds),
        lambda: measure_product(inner, hidden, dtype, arguments.seconds),
        lambda: measure_ffns(model, tokenizer, arguments.p, arguments.seconds),
    ):
        for line in measured():
            print(line, flush=True)
            results.append(line)
    save_result(
        f"skipping-cpu-{Path(arguments.model).stem}-{arguments.dtype}",
        {
            "machine": describe_machine(),
            "versions": package_versions(),
            "read_gb_per_s": round(limit, 1),
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
