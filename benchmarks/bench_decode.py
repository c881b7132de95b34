"""Time decoding with an accelerated model, in turns with three dense models.

The dense models are the stock model, the kernels without the rule, and the kernels at p = 1. A gain is stated over
the fastest of them.

    python -m benchmarks.bench_decode [--device cpu] [--models smollm2-135m,FILE.gguf] [--quick]

The physical limit is printed first: the rate at which this machine reads memory. One line per measurement follows, and
the result as JSON last. Each turn times every contender once, in the same process, and ratios are those of one turn.
Their median is reported. One row is timed in two ways: with ``generate`` as it is, and with a static cache and compiled
decode steps (`AcceleratedModel.compile_decoding`), those of the dense models as well. For compiled steps, the time of a
token is stated with its share of the prompt, and, as ``steps``, without the prompt. The FFNs alone are also timed
with OpenVINO if it is installed. On a machine with other work, ``--clock process --threads 1`` counts the processor
time of this process on one thread instead of the elapsed time.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal

import torch

import sparsedial as sd
from benchmarks.decode_contenders import DENSE, OWN_DENSE, OWN_P1, STOCK, Contender, TokenTime
from benchmarks.environment import describe_machine, device_slug, package_versions, save_result
from benchmarks.openvino_ffns import compare_ffns
from benchmarks.timing import measure_read_rate

PROMPT = "def quicksort(values):\n    # Sort the values in place and return them, without other memory.\n"
CROSSOVER = (0.2, 0.35, 0.5, 0.7)  # shares of dropped entries
ROWS = (2, 4, 8)
PARTS = ("one_row", "compiled", "rows", "ffns", "prefill")
CLOCKS = {"elapsed": perf_counter, "process": process_time}


@dataclass(frozen=True)
class Settings:
    """The options of one run."""

    tokens: int
    turns: int
    clock: Callable[[], float]
    parts: tuple[str, ...]


def time_in_turns(
    model: Any, input_ids: torch.Tensor, contenders: Sequence[Contender], settings: Settings
) -> dict[Contender, list[float]]:
    """Return the seconds per generated token of each contender, one entry per turn."""
    seconds: dict[Contender, list[float]] = {contender: [] for contender in contenders}
    for _ in range(settings.turns):
        for contender in contenders:
            with contender.attach(model) as current:
                time = contender.time(current, input_ids, settings.tokens, settings.clock)
                seconds[contender].append(time.with_prompt)
    return seconds


def measure_compiled(
    model: Any, input_ids: torch.Tensor, values: Iterable[float], settings: Settings
) -> list[dict[str, Any]]:
    """Return the times and ratios of `compare` for compiled steps, and the ratios to the stock model without.

    Under ``steps`` are the same times and ratios without the prompt. Each contender has a copy of the model, which is
    compiled once.
    """
    torch._dynamo.reset()
    sparse = [Contender(p) for p in values]
    compiled = {contender: replace(contender, compiled=True) for contender in (*DENSE, *sparse)}
    times: dict[Contender, list[TokenTime]] = {contender: [] for contender in (STOCK, *compiled.values())}
    with ExitStack() as stack:
        models = {contender: stack.enter_context(contender.attach(copy.deepcopy(model))) for contender in times}
        for contender, current in models.items():
            contender.generate(current, input_ids, settings.tokens)
        for _ in range(settings.turns):
            for contender, current in models.items():
                times[contender].append(contender.time(current, input_ids, settings.tokens, settings.clock))
    with_prompt = {contender: [time.with_prompt for time in turns] for contender, turns in times.items()}
    steps = {contender: [time.step for time in turns] for contender, turns in times.items()}
    return [
        {
            "p": contender.p,
            **compare_compiled(with_prompt, compiled, contender),
            "steps": compare_compiled(steps, compiled, contender),
        }
        for contender in sparse
    ]


def compare_compiled(
    seconds: dict[Contender, list[float]], compiled: dict[Contender, Contender], sparse: Contender
) -> dict[str, float]:
    """Return the times and ratios of `compare` for the compiled contenders, and those to the stock model without."""
    compiled_seconds = {contender: seconds[other] for contender, other in compiled.items()}
    return {
        **compare(compiled_seconds, sparse),
        "ms_stock_not_compiled": round(1e3 * statistics.median(seconds[STOCK]), 2),
        "to_stock_not_compiled": median_ratio(seconds[STOCK], compiled_seconds[sparse]),
    }


def find_fastest_dense(seconds: dict[Contender, list[float]]) -> list[float]:
    """Return the seconds of the dense model with the smallest median, one entry per turn.

    The smallest of the times of each turn would be smaller than any of the models is on average.
    """
    return min((seconds[contender] for contender in DENSE), key=statistics.median)


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Return the median of the ratios of each turn."""
    return round(statistics.median(a / b for a, b in zip(numerators, denominators, strict=True)), 3)


def compare(seconds: dict[Contender, list[float]], sparse: Contender) -> dict[str, float]:
    """Return the milliseconds per token of all contenders for one row, and the ratios of the sparse one."""
    return {
        "ms_stock": round(1e3 * statistics.median(seconds[STOCK]), 2),
        "ms_own_dense": round(1e3 * statistics.median(seconds[OWN_DENSE]), 2),
        "ms_p1": round(1e3 * statistics.median(seconds[OWN_P1]), 2),
        "ms": round(1e3 * statistics.median(seconds[sparse]), 2),
        "to_stock": median_ratio(seconds[STOCK], seconds[sparse]),
        "to_own_dense": median_ratio(seconds[OWN_DENSE], seconds[sparse]),
        "to_p1": median_ratio(seconds[OWN_P1], seconds[sparse]),
        "to_fastest_dense": median_ratio(find_fastest_dense(seconds), seconds[sparse]),
    }


def observe(
    model: Any, input_ids: torch.Tensor, p: float, when_slower: Literal["mask", "dense"] = "mask"
) -> dict[str, float]:
    """Return the sparsity of all entries, and the shares of what was read, over 24 tokens."""
    contender = Contender(p, when_slower)
    with contender.attach(model) as fast:
        contender.generate(fast, input_ids, 24)
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
        "call_share_without_rule": round(report.calls_without_rule / report.calls, 3),
    }


def find_p(model: Any, input_ids: torch.Tensor, sparsity: float) -> float:
    """Return the p at which the share of entries that is dropped while the model generates is nearest to a value."""
    low, high = 0.3, 1.0
    observed: dict[float, float] = {}
    while high - low > 0.006:
        middle = round((low + high) / 2, 3)
        observed[middle] = observe(model, input_ids, middle)["sparsity"]
        if observed[middle] > sparsity:
            low = middle
        else:
            high = middle
    return min(observed, key=lambda p: abs(observed[p] - sparsity))


def measure_model(name: str, dtype: str, settings: Settings, shares: tuple[float, ...]) -> dict[str, Any]:
    """Time one model in one dtype: several sparsities for one row, and the other parts at half of the entries."""
    model, tokenizer = sd.load_model(name, device="cpu", dtype=dtype)
    input_ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    result: dict[str, Any] = {"model": Path(name).stem, "dtype": dtype}

    def add(part: str, measured: Any) -> None:
        result[part] = measured
        for line in measured if isinstance(measured, list) else [measured]:
            print(result["model"], dtype, part, line, flush=True)

    values = {share: find_p(model, input_ids, share) for share in shares}
    p = values[0.5]
    if "one_row" in settings.parts:
        add("one_row", measure_one_row(model, input_ids, values.values(), settings))
    if "compiled" in settings.parts:
        add("compiled", measure_compiled(model, input_ids, values.values(), settings))
    if "rows" in settings.parts:
        add("rows", measure_rows(model, input_ids, p, settings))
    if "ffns" in settings.parts:
        add("ffns", compare_ffns(model, p, settings.turns, settings.clock))
    if "prefill" in settings.parts:
        add("prefill", measure_prefill(model, tokenizer, settings))
    return result


def measure_one_row(
    model: Any, input_ids: torch.Tensor, values: Iterable[float], settings: Settings
) -> list[dict[str, float]]:
    """Time ``generate`` with one sequence, for several values of p."""
    lines = []
    for p in values:
        sparse = Contender(p)
        seconds = time_in_turns(model, input_ids, [*DENSE, sparse], settings)
        lines.append({"p": p, **observe(model, input_ids, p), **compare(seconds, sparse)})
    return lines


def measure_rows(model: Any, input_ids: torch.Tensor, p: float, settings: Settings) -> list[dict[str, Any]]:
    """Time ``generate`` with several sequences."""
    lines = []
    for rows in ROWS:
        batch = torch.cat([input_ids.roll(shift, dims=1) for shift in range(rows)])
        both = [Contender(p), Contender(p, "dense")]
        seconds = time_in_turns(model, batch, [*DENSE, *both], settings)
        for sparse in both:
            line: dict[str, Any] = {"rows": rows, "p": p, "when_slower": sparse.when_slower}
            line |= observe(model, batch, p, sparse.when_slower)
            line["to_fastest_dense"] = median_ratio(find_fastest_dense(seconds), seconds[sparse])
            line["to_stock"] = median_ratio(seconds[STOCK], seconds[sparse])
            lines.append(line)
    return lines


def measure_prefill(model: Any, tokenizer: Any, settings: Settings) -> list[dict[str, float]]:
    """Return the time of an accelerated prefill divided by that of the stock model, for several lengths."""
    lines = []
    for length in (16, 128, 512):
        input_ids = torch.arange(length)[None] % min(1000, len(tokenizer)) + 10
        accelerated = Contender(0.9)
        seconds: dict[Contender, list[float]] = {STOCK: [], accelerated: []}
        for _ in range(settings.turns):
            for contender, times in seconds.items():
                with contender.attach(model) as current, torch.no_grad():
                    current(input_ids)
                    start = settings.clock()
                    current(input_ids)
                    times.append(settings.clock() - start)
        lines.append({"tokens": length, "to_stock_time": median_ratio(seconds[accelerated], seconds[STOCK])})
    return lines


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="Device. Default: cpu.")
    parser.add_argument("--models", default="smollm2-135m", help="Comma-separated names of models.")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="Comma-separated dtypes.")
    parser.add_argument("--tokens", type=int, default=64, help="Tokens to generate. Default: 64.")
    parser.add_argument("--turns", type=int, help="Turns of each measurement. Default: 7, or 3 with --quick.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="Threads of PyTorch.")
    parser.add_argument("--clock", default="elapsed", choices=list(CLOCKS), help="Time to count. Default: elapsed.")
    parser.add_argument("--parts", default=",".join(PARTS), help="Comma-separated parts to measure. Default: all.")
    parser.add_argument("--quick", action="store_true", help="One sparsity and, unless --turns is given, three turns.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = tuple(arguments.parts.split(","))
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts {arguments.parts}: expected some of {','.join(PARTS)}")
    if arguments.tokens < 2:
        parser.error(f"--tokens {arguments.tokens}: expected at least 2, of which the first ends the prompt")
    turns = arguments.turns or (3 if arguments.quick else 7)
    settings = Settings(arguments.tokens, turns, CLOCKS[arguments.clock], parts)
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
