"""Time decoding with an accelerated model, in turns with the stock model and with the same kernels at p = 1.

    python -m benchmarks.bench_decode [--device cpu] [--models smollm2-135m,FILE.gguf] [--quick]

The physical limit is printed first: the rate at which this machine reads memory. One line per measurement follows, and
the result as JSON last. Each turn times every contender
once, in the same process, and ratios are those of one turn. Their median is reported. The FFNs alone are also timed
with OpenVINO if it is installed. On a machine with other work, ``--clock process --threads 1`` counts the processor
time of this process on one thread instead of the elapsed time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import sparsedial as sd
from benchmarks.environment import describe_machine, device_slug, package_versions, save_result
from benchmarks.openvino_ffns import compare_ffns

PROMPT = "def quicksort(values):\n    # Sort the values in place and return them, without other memory.\n"
SITE = "all_inputs"
READ_BYTES = 1 << 29
CROSSOVER = (0.2, 0.35, 0.5, 0.7)  # shares of dropped entries
ROWS = (2, 4, 8)
CLOCKS = {"elapsed": time.perf_counter, "process": time.process_time}


@dataclass(frozen=True)
class Settings:
    """The options of one run."""

    tokens: int
    turns: int
    clock: Callable[[], float]


def measure_read_rate(clock: Callable[[], float]) -> float:
    """Return the rate in GB/s at which PyTorch adds up memory that is not in a cache: the best of nine."""
    memory = torch.ones(READ_BYTES // 4)
    seconds = []
    for _ in range(9):
        start = clock()
        memory.sum()
        seconds.append(clock() - start)
    return READ_BYTES / min(seconds) / 1e9


def generate(model: Any, input_ids: torch.Tensor, tokens: int) -> None:
    """Generate a fixed number of tokens, greedily."""
    model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )


@contextmanager
def contender(model: Any, p: float | None) -> Iterator[Any]:
    """Provide the stock model (p is None) or the accelerated one."""
    if p is None:
        yield model
        return
    with sd.accelerate(model, SITE, sd.TopP(p)) as fast:
        yield fast


def time_in_turns(
    model: Any, input_ids: torch.Tensor, values: list[float | None], settings: Settings
) -> dict[float | None, list[float]]:
    """Return the seconds per generated token of each contender, one entry per turn."""
    seconds: dict[float | None, list[float]] = {p: [] for p in values}
    for _ in range(settings.turns):
        for p in values:
            with contender(model, p) as current:
                generate(current, input_ids, 4)
                start = settings.clock()
                generate(current, input_ids, settings.tokens)
                seconds[p].append((settings.clock() - start) / settings.tokens)
    return seconds


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Return the median of the ratios of each turn."""
    return round(statistics.median(a / b for a, b in zip(numerators, denominators, strict=True)), 3)


def observe(model: Any, input_ids: torch.Tensor, p: float) -> dict[str, float]:
    """Return the sparsity of all entries, and the shares of what was read, over 24 tokens."""
    with sd.accelerate(model, SITE, sd.TopP(p)) as fast:
        generate(fast, input_ids, 24)
        report = fast.report()
    widths = {"input": model.config.hidden_size, "intermediate": model.config.intermediate_size}
    means = report.table.groupby("vector").sparsity.mean()
    sparsity = sum(means[name] * width for name, width in widths.items()) / sum(widths.values())
    return {
        "sparsity": round(float(sparsity), 3),
        "sparsity_input": round(float(means["input"]), 3),
        "sparsity_intermediate": round(float(means["intermediate"]), 3),
        "read_share": round(report.read_share, 3),
        "dense_call_share": round(report.dense_call_share, 3),
        "dense_byte_share": round(report.dense_byte_share, 3),
    }


def find_p(model: Any, input_ids: torch.Tensor, sparsity: float) -> float:
    """Return p, to 0.01, at which about this share of all entries is dropped while the model generates."""
    low, high = 0.3, 1.0
    while high - low > 0.011:
        middle = round((low + high) / 2, 3)
        if observe(model, input_ids, middle)["sparsity"] > sparsity:
            low = middle
        else:
            high = middle
    return round(high, 2)


def measure_model(name: str, dtype: str, settings: Settings, shares: tuple[float, ...]) -> dict[str, Any]:
    """Time one model in one dtype: several sparsities for one row, and several rows at half of the entries."""
    model, tokenizer = sd.load_model(name, device="cpu", dtype=dtype)
    input_ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    result: dict[str, Any] = {"model": Path(name).stem, "dtype": dtype, "one_row": [], "rows": []}
    values = {share: find_p(model, input_ids, share) for share in shares}
    for p in values.values():
        seconds = time_in_turns(model, input_ids, [None, 1.0, p], settings)
        line = {
            "p": p,
            **observe(model, input_ids, p),
            "ms_stock": round(1e3 * statistics.median(seconds[None]), 2),
            "ms_p1": round(1e3 * statistics.median(seconds[1.0]), 2),
            "ms": round(1e3 * statistics.median(seconds[p]), 2),
            "to_stock": median_ratio(seconds[None], seconds[p]),
            "to_p1": median_ratio(seconds[1.0], seconds[p]),
        }
        fastest = list(map(min, seconds[None], seconds[1.0]))
        line["to_fastest_dense"] = median_ratio(fastest, seconds[p])
        result["one_row"].append(line)
        print(result["model"], dtype, line, flush=True)
    for rows in ROWS:
        batch = torch.cat([input_ids.roll(shift, dims=1) for shift in range(rows)])
        p = values[0.5]
        seconds = time_in_turns(model, batch, [None, 1.0, p], settings)
        fastest = list(map(min, seconds[None], seconds[1.0]))
        line = {"rows": rows, "p": p, **observe(model, batch, p), "to_fastest_dense": median_ratio(fastest, seconds[p])}
        line["to_stock"] = median_ratio(seconds[None], seconds[p])
        result["rows"].append(line)
        print(result["model"], dtype, line, flush=True)
    result["ffns"] = compare_ffns(model, values[0.5], settings.turns, settings.clock)
    print(result["model"], dtype, "FFNs only, one token:", result["ffns"], flush=True)
    result["prefill"] = measure_prefill(model, tokenizer, settings)
    print(result["model"], dtype, "prefill", result["prefill"], flush=True)
    return result


def measure_prefill(model: Any, tokenizer: Any, settings: Settings) -> list[dict[str, float]]:
    """Return the time of an accelerated prefill divided by that of the stock model, for several lengths."""
    lines = []
    for length in (16, 128, 512):
        input_ids = torch.arange(length)[None] % min(1000, len(tokenizer)) + 10
        seconds: dict[float | None, list[float]] = {None: [], 0.9: []}
        for _ in range(settings.turns):
            for p in seconds:
                with contender(model, p) as current, torch.no_grad():
                    current(input_ids)
                    start = settings.clock()
                    current(input_ids)
                    seconds[p].append(settings.clock() - start)
        lines.append({"tokens": length, "to_stock_time": median_ratio(seconds[0.9], seconds[None])})
    return lines


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="Device. Default: cpu.")
    parser.add_argument("--models", default="smollm2-135m", help="Comma-separated names of models.")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="Comma-separated dtypes.")
    parser.add_argument("--tokens", type=int, default=64, help="Tokens to generate. Default: 64.")
    parser.add_argument("--turns", type=int, default=7, help="Turns of each measurement. Default: 7.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="Threads of PyTorch.")
    parser.add_argument("--clock", default="elapsed", choices=list(CLOCKS), help="Time to count. Default: elapsed.")
    parser.add_argument("--quick", action="store_true", help="One sparsity and three turns.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = Settings(arguments.tokens, 3 if arguments.quick else arguments.turns, CLOCKS[arguments.clock])
    limit = measure_read_rate(settings.clock)
    print(f"physical limit: memory is read at {limit:.1f} GB/s with {arguments.threads} threads", flush=True)
    measure = partial(measure_model, settings=settings, shares=(0.5,) if arguments.quick else CROSSOVER)
    results = []
    for name in arguments.models.split(","):
        for dtype in arguments.dtypes.split(","):
            results.append(measure(name, dtype))
    save_result(
        "-".join(["decode", device_slug(), *(Path(name).stem for name in arguments.models.split(","))]),
        {
            "machine": describe_machine(),
            "versions": package_versions(),
            "clock": arguments.clock,
            "read_gb_per_s": round(limit, 1),
            "tokens": arguments.tokens,
            "results": results,
        },
    )


if __name__ == "__main__":
    main()
