"""How fast are texts of different lengths generated, compared with the model's own `generate`?

A model with random weights that counts down to its end token continues the same prompts in several ways, which are
timed in turns. The lengths of the texts are not known beforehand: the limit is the longest one. `generate` runs with
each of several batch sizes once, and the fastest one is timed in all turns.

    python -m benchmarks.bench_generation --device cuda
    python -m benchmarks.bench_generation --device cpu --prompts 32
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.countdown_model import FIRST_FREE_TOKEN, NumberTokenizer, make_countdown_model
from benchmarks.environment import describe_machine, device_slug, package_versions, save_result
from benchmarks.timing import synchronize
from sparsedial.cache_arguments import cache_argument
from sparsedial.ffn.discovery import find_ffns
from sparsedial.hooks.sparsifier import sparsify
from sparsedial.inference import continuous_batching, decode_graphs
from sparsedial.inference.generation import Prompt
from sparsedial.inference.generation_engine import SWITCH, generate
from sparsedial.inference.run_context import RunContext
from sparsedial.rules import TopP

SHAPES: dict[str, dict[str, Any]] = {
    "cuda": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 4096,
    },
    "cpu": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 4096,
    },
}  # fmt: skip
"""Shape of Llama 3.2 1B on a GPU, and of SmolLM2 135M on a CPU."""
DTYPES = {"cuda": torch.bfloat16, "cpu": torch.float32}
BATCHES = {"cuda": (64, 32), "cpu": (64, 32, 16)}
SHORTEST, LONGEST = 32, 384
PROMPT_LENGTHS = (16, 192)
P = 0.9
PLAIN = "generate"


@dataclass
class Workload:
    """Prompts, and how many tokens each of them is continued by.

    Attributes:
        prompts: Token IDs of each prompt.
        lengths: Number of generated tokens of each prompt.
    """

    prompts: list[list[int]]
    lengths: list[int]

    @classmethod
    def draw(cls, count: int, *, mixed: bool) -> Workload:
        """Draw prompts whose texts have lengths from `SHORTEST` to `LONGEST`, or all the same mean length."""
        generator = torch.Generator().manual_seed(int(mixed))
        lengths = torch.linspace(SHORTEST, LONGEST, count).round().long()
        lengths = lengths[torch.randperm(count, generator=generator)].tolist()
        if not mixed:
            lengths = [(SHORTEST + LONGEST) // 2] * count
        prompts = []
        for length in lengths:
            size = int(torch.randint(*PROMPT_LENGTHS, (1,), generator=generator))
            tokens = torch.randint(FIRST_FREE_TOKEN, 2 * FIRST_FREE_TOKEN, (size,), generator=generator).tolist()
            prompts.append([*tokens, length])
        return cls(prompts, lengths)

    def requests(self) -> list[Prompt]:
        """Return the prompts for our engine."""
        return [Prompt(tokens, (), max(self.lengths)) for tokens in self.prompts]


@dataclass
class Variant:
    """One way to generate the texts.

    Attributes:
        name: Name.
        run: Function that generates all texts and returns the length of each.
        turns: Number of times that it is timed.
        warm_up: True if it is run once before the first turn.
        seconds: Time of each turn.
        is_broken: True once it has failed.
    """

    name: str
    run: Callable[[], list[int]]
    turns: int
    warm_up: bool = True
    seconds: list[float] = field(default_factory=list)
    is_broken: bool = False


@contextmanager
def settings(variables: Mapping[str, str] = {}, **constants: int) -> Iterator[None]:  # not changed
    """Set environment variables, and constants of the engine, inside the `with` block."""
    previous = {name: os.environ.get(name) for name in variables}
    before = {name: getattr(decode_graphs, name) for name in constants}
    os.environ.update(variables)
    for name, value in constants.items():
        setattr(decode_graphs, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(decode_graphs, name, value)
        for name, old in previous.items():
            os.environ.pop(name)
            if old is not None:
                os.environ[name] = old


def generate_plainly(model: Any, workload: Workload, rows: int) -> list[int]:
    """Continue the prompts with the model's own `generate`, longest prompts first, and return the lengths."""
    order = sorted(range(len(workload.prompts)), key=lambda index: -len(workload.prompts[index]))
    counts = dict.fromkeys(order, 0)
    for start in range(0, len(order), rows):
        indices = order[start : start + rows]
        width = len(workload.prompts[indices[0]])
        tokens = torch.zeros(len(indices), width, dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        for row, index in enumerate(indices):
            prompt = workload.prompts[index]
            tokens[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        output = model.generate(
            input_ids=tokens.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max(workload.lengths),
            do_sample=False,
        )[:, width:].tolist()
        for index, row in zip(indices, output, strict=True):
            counts[index] = row.index(0) + 1
    return [counts[index] for index in range(len(order))]


def generate_with_ours(model: Any, workload: Workload, rows: int, sparsifier: Any = None) -> list[int]:
    """Continue the prompts with our engine, and return the lengths."""
    tokens_per_slot = continuous_batching.TOKENS_PER_SLOT
    if model.device.type == "cpu":
        tokens_per_slot = continuous_batching.CPU_TOKENS_PER_SLOT
    run = RunContext(sparsifier, batch_tokens=tokens_per_slot * rows)
    return [len(text.tokens) for text in generate(model, NumberTokenizer(), workload.requests(), run)]


def generate_with_transformers_batching(model: Any, workload: Workload) -> list[int]:
    """Continue the prompts with transformers' continuous batching and CUDA graphs, and return the lengths."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    config = GenerationConfig(max_new_tokens=max(workload.lengths), do_sample=False, eos_token_id=0, pad_token_id=0)
    outputs = model.generate_batch(
        workload.prompts,
        generation_config=config,
        continuous_batching_config=ContinuousBatchingConfig(use_cuda_graph=True),
    )
    return sorted(len(output.generated_tokens) for output in outputs.values())


class Bench:
    """The benchmark of one workload.

    Args:
        model: Model that counts down.
        workload: Prompts.
        args: Command line.
        deadline: Time at which no further turn begins.
    """

    def __init__(self, model: Any, workload: Workload, args: argparse.Namespace, deadline: float) -> None:
        self.model = model
        self.workload = workload
        self.args = args
        self.deadline = deadline
        self.clock = time.process_time if args.cpu_time else time.perf_counter

    def run_once(self, variant: Variant) -> float | None:
        """Time one turn, or return None and print the error if it fails or there is no time left."""
        if variant.is_broken or time.perf_counter() > self.deadline:
            return None
        try:
            synchronize()
            start = self.clock()
            lengths = variant.run()
            synchronize()
            seconds = self.clock() - start
            if sorted(lengths) != sorted(self.workload.lengths):
                raise ValueError(f"wrong lengths: {lengths}, expected {self.workload.lengths}")
        except Exception:
            traceback.print_exc()
            variant.is_broken = True
            return None
        print(f"  {variant.name}: {seconds:.2f} s", flush=True)
        return seconds

    def choose_plain(self) -> Variant:
        """Return `generate` at the batch size that is fastest in one turn."""
        best: tuple[float, int] | None = None
        for rows in self.args.batches:
            variant = Variant(f"{PLAIN}, batch {rows}", partial(generate_plainly, self.model, self.workload, rows), 1)
            seconds = self.run_once(variant)
            if seconds is not None and (best is None or seconds < best[0]):
                best = (seconds, rows)
        rows = self.args.batches[0] if best is None else best[1]
        run = partial(generate_plainly, self.model, self.workload, rows)
        return Variant(PLAIN, run, self.args.turns, warm_up=False)

    def run(self, variants: Sequence[Variant]) -> dict[str, Any]:
        """Time all variants in turns, after one untimed turn of each, and return the result."""
        for variant in variants:
            if variant.warm_up:
                self.run_once(variant)
        for turn in range(self.args.turns):
            for variant in variants:
                if turn < variant.turns:
                    seconds = self.run_once(variant)
                    if seconds is not None:
                        variant.seconds.append(seconds)
        return summarize(variants, sum(self.workload.lengths))


def summarize(variants: Sequence[Variant], tokens: int) -> dict[str, Any]:
    """Return the median, all times and the tokens per second of each variant, and print a table."""
    rows: dict[str, Any] = {}
    plain = next((variant for variant in variants if variant.name == PLAIN), None)
    for variant in variants:
        if not variant.seconds:
            rows[variant.name] = None
            continue
        median = statistics.median(variant.seconds)
        rows[variant.name] = {
            "seconds": round(median, 3),
            "all": [round(value, 3) for value in variant.seconds],
            "tokens_per_second": round(tokens / median, 1),
        }
        if plain is not None and plain.seconds:
            rows[variant.name]["speed"] = round(statistics.median(plain.seconds) / median, 3)
    for name, row in rows.items():
        print(f"{name:32}", "failed" if row is None else row, flush=True)
    return rows


def list_variants(bench: Bench, plain: Variant) -> list[Variant]:
    """Return the ways to generate on the device of the model."""
    args = bench.args
    ours = partial(generate_with_ours, bench.model, bench.workload, args.slots)

    def fixed_batches() -> list[int]:
        with settings({SWITCH: "0"}):
            return ours()

    def eager() -> list[int]:
        with settings({decode_graphs.SWITCH: "0"}):
            return ours()

    def one_graph() -> list[int]:
        with settings(MIN_COLUMNS=1024, SLOT_FACTOR=args.slots):
            return ours()

    def fewer_graphs() -> list[int]:
        with settings(MIN_COLUMNS=256, SLOT_FACTOR=4):
            return ours()

    variants = [plain, Variant("ours", ours, args.turns)]
    if bench.model.device.type == "cpu":
        variants.append(Variant("ours in fixed batches", fixed_batches, 1, warm_up=False))
    if bench.model.device.type == "cuda":
        transformers_batching = partial(generate_with_transformers_batching, bench.model, bench.workload)
        variants += [
            Variant("ours, one graph", one_graph, 3),
            Variant("ours, fewer graphs", fewer_graphs, 3),
            Variant("fixed batches, without graphs", eager, 1, warm_up=False),
            Variant("generate_batch, CUDA graphs", transformers_batching, 2),
        ]
    return [variant for variant in variants if args.only is None or variant.name in (PLAIN, *args.only)]


def compare_sparse(bench: Bench, plain: Variant) -> dict[str, Any]:
    """Return the times with a rule, and whether the counted tokens are those of the workload."""
    ffns = find_ffns(bench.model)
    counted: dict[str, Any] = {}

    def run_sparse(name: str, run: Callable[[Any], list[int]]) -> list[int]:
        with sparsify(bench.model, "input", TopP(P), ffns=ffns) as sparsifier:
            lengths = run(sparsifier)
            table = sparsifier.stats().groupby("phase")[["tokens", "dropped", "total"]].sum()
        share = table["dropped"] / table["total"]
        counted[name] = {"tokens": (table["tokens"] // len(ffns)).to_dict(), "sparsity": share.round(5).to_dict()}
        return lengths

    def ours(sparsifier: Any) -> list[int]:
        return generate_with_ours(bench.model, bench.workload, bench.args.slots, sparsifier)

    def plainly(_: Any) -> list[int]:
        return plain.run()

    variants = [
        Variant(PLAIN, partial(run_sparse, PLAIN, plainly), 1, warm_up=False),
        Variant("ours", partial(run_sparse, "ours", ours), 1 if bench.args.quick else 3),
    ]
    rows = bench.run(variants)
    workload = bench.workload
    expected = {
        "prefill": sum(map(len, workload.prompts)),
        "generation": sum(length - 1 for length in workload.lengths),
    }
    print("counted:", counted, "expected:", expected, flush=True)
    return {"times": rows, "counted": counted, "expected_tokens": expected}


def time_compiled(bench: Bench) -> dict[str, Any] | None:
    """Return the time of a compiled step inside of one CUDA graph, with the time of its compilation apart."""
    from sparsedial.inference.slot_decoder import SlotDecoder

    decode = SlotDecoder.decode
    model = bench.model
    forward = torch.compile(lambda **arguments: type(model).forward(model, **arguments).logits, dynamic=False)

    def decode_compiled(decoder: Any, slots: int, columns: int) -> torch.Tensor:
        positions = decoder.positions[:slots, None]
        decoder.cache.start_decoding(slots, columns, decoder.positions[:slots])
        logits: torch.Tensor = forward(
            input_ids=decoder.tokens[:slots, None], position_ids=positions,
            attention_mask=decoder._make_masks(positions, columns),
            use_cache=True,
            **{cache_argument(decoder.model.forward): decoder.cache},
        )  # fmt: skip
        return logits[:, -1]

    def ours() -> list[int]:
        with settings(MIN_COLUMNS=1024, SLOT_FACTOR=bench.args.slots):
            return generate_with_ours(model, bench.workload, bench.args.slots)

    SlotDecoder.decode = decode_compiled
    try:
        start = time.perf_counter()
        variant = Variant("ours, compiled, one graph", ours, 2)
        bench.run_once(variant)
        compilation = time.perf_counter() - start
        for _ in range(variant.turns):
            seconds = bench.run_once(variant)
            if seconds is not None:
                variant.seconds.append(seconds)
        return {"first_turn": round(compilation, 2), **summarize([variant], sum(bench.workload.lengths))}
    finally:
        SlotDecoder.decode = decode


def measure_limits(model: Any, workload: Workload) -> dict[str, float]:
    """Return the memory bandwidth and the arithmetic speed of the device, and the time that they allow at least.

    All texts are generated at the same time. A step reads the weights and the keys and values of the texts that have
    not ended once, and multiplies each weight with each of their tokens.
    """
    device, dtype = model.device, model.dtype
    size = 1 << (28 if device.type == "cuda" else 25)
    source = torch.ones(size, dtype=dtype, device=device)
    target = torch.empty_like(source)
    width = 4096 if device.type == "cuda" else 1024
    matrix = torch.randn(width, width, device=device).to(dtype)
    bandwidth = 2 * source.numel() * source.element_size() / _best_seconds(lambda: target.copy_(source))
    speed = 2 * width**3 / _best_seconds(lambda: matrix @ matrix)
    weights = sum(parameter.numel() for parameter in model.parameters())
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * head * source.element_size()
    seconds = 2 * weights * sum(map(len, workload.prompts)) / speed
    for step in range(1, max(workload.lengths)):
        lengths = [
            len(prompt) + step for prompt, end in zip(workload.prompts, workload.lengths, strict=True) if end > step
        ]
        read = weights * source.element_size() + token_bytes * sum(lengths)
        seconds += max(read / bandwidth, 2 * weights * len(lengths) / speed)
    limits = {
        "bandwidth_gb_s": round(bandwidth / 1e9, 1),
        "gflop_s": round(speed / 1e9, 1),
        "seconds": round(seconds, 3),
    }
    print(f"physical limit: {limits}", flush=True)
    return limits


def _best_seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(6):
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def run_workload(model: Any, args: argparse.Namespace, *, mixed: bool, deadlines: Sequence[float]) -> dict[str, Any]:
    """Run all variants on one workload. The deadlines are those of the variants, of a rule and of compilation."""
    workload = Workload.draw(args.prompts, mixed=mixed)
    print(f"\n{'mixed' if mixed else 'equal'} lengths: {sum(workload.lengths)} tokens of {args.prompts} texts")
    result: dict[str, Any] = {"tokens": sum(workload.lengths), "limit": measure_limits(model, workload)}
    bench = Bench(model, workload, args, deadlines[0])
    plain = bench.choose_plain()
    result["batch"] = plain.run.args[2] if isinstance(plain.run, partial) else None
    variants = list_variants(bench, plain)
    result["dense"] = bench.run(variants if mixed else variants[:2])
    bench.deadline = deadlines[1]
    if mixed and args.sparse:
        result["sparse"] = _try(partial(compare_sparse, bench, plain))
    bench.deadline = deadlines[2]
    if mixed and args.compile and model.device.type == "cuda":
        result["compiled"] = _try(partial(time_compiled, bench))
    return result


def _try(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or None after printing its error."""
    try:
        return call()
    except Exception:
        traceback.print_exc()
        return None


def main() -> None:
    """Run the benchmark that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--slots", type=int, help="texts at the same time. Default: 64")
    parser.add_argument("--batches", help="batch sizes of generate, such as 16,32")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", help="names of the variants to run beside generate, separated by semicolons")
    parser.add_argument("--seconds", type=float, default=330, help="no turn begins later")
    parser.add_argument("--cpu-time", action="store_true", help="measure the time of the process, on a busy machine")
    parser.add_argument("--vocabulary", type=int, help="number of tokens. Default: that of the shape")
    parser.add_argument("--layers", type=int, help="number of layers. Default: that of the shape")
    parser.add_argument("--sparse", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--equal", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--quick", action="store_true", help="one turn of each")
    args = parser.parse_args()
    start = time.perf_counter()
    kind = "cpu" if args.device == "cpu" else "cuda"
    args.batches = [int(text) for text in args.batches.split(",")] if args.batches else list(BATCHES[kind])
    args.slots = args.slots or continuous_batching.MAX_SLOTS
    args.only = None if args.only is None else args.only.split(";")
    if args.quick:
        args.turns = 1
    warnings.simplefilter("always")
    shape = dict(SHAPES[kind])
    shape["num_hidden_layers"] = args.layers or shape["num_hidden_layers"]
    shape["vocab_size"] = args.vocabulary or shape["vocab_size"]
    model = make_countdown_model(args.device, DTYPES[kind], **shape)
    print(describe_machine(), f"model after {time.perf_counter() - start:.1f} s", flush=True)
    result: dict[str, Any] = {"benchmark": "generation", "machine": describe_machine(), "versions": package_versions(),
                              "command": sys.argv[1:], "shape": shape, "dtype": str(model.dtype)}  # fmt: skip
    with torch.inference_mode():
        for mixed, shares in ((False, (0.25, 0.25, 0.25)), (True, (0.7, 0.85, 1.0))):
            if mixed or args.equal:
                deadlines = [start + share * args.seconds for share in shares]
                run = partial(run_workload, model, args, mixed=mixed, deadlines=deadlines)
                result["mixed" if mixed else "equal"] = _try(run)
    result["seconds"] = round(time.perf_counter() - start, 1)
    save_result(f"generation-{device_slug() if kind == 'cuda' else 'cpu'}", result)


if __name__ == "__main__":
    main()
