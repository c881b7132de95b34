"""Time the products of an accelerated model on a GPU, against the dense products of the same GPU.

    python -m benchmarks.bench_gpu_products [--sweep] [--quick]

The physical limit is printed first: the measured rates of a copy and of a read. One line per measurement follows, and
the result as JSON last. Products and FFNs are timed in CUDA graphs, so the time of the host does not count. The layers
of a graph have more weights than the caches hold. All contenders of a line are timed in turns, and medians are
reported.

``--sweep`` times many tile sizes instead, for one and for several vectors, and prints the fastest of them.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn.functional import linear, silu
from transformers import LlamaConfig, LlamaForCausalLM

import sparsedial as sd
from benchmarks.environment import describe_machine, device_slug, package_versions, save_result
from benchmarks.timing import median_seconds
from sparsedial.acceleration.backend import ProductLimits
from sparsedial.acceleration.cuda_products import (
    ONE_VECTOR,
    SEVERAL_VECTORS,
    KeptInputs,
    TileSizes,
    make_backend,
    make_selector,
)
from sparsedial.acceleration.dense_calls import DenseCalls
from sparsedial.acceleration.timing_table import LimitTable
from sparsedial.kernels.dispatch import BoundRule

DTYPE = torch.bfloat16
SPARSITIES = (0.0, 0.3, 0.5, 0.7, 0.9)
VECTORS = (1, 2, 4, 8)
WHEN_SLOWER: tuple[Literal["mask", "dense"], ...] = ("mask", "dense")
TURNS = 15
LLAMA_1B = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Describes an FFN, and how many layers of it one graph runs."""

    name: str
    hidden: int
    width: int
    layers: int


SHAPES = (Shape("8B", 4096, 14336, 4), Shape("1B", 2048, 8192, 8))


def capture(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """Return a CUDA graph of a call."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph


def time_graphs(calls: dict[str, Callable[[], Any]], divisor: int, turns: int = TURNS) -> dict[str, float]:
    """Return the median microseconds of each call, captured in a graph and replayed in turns, divided by a number."""
    graphs = {name: capture(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for graph in graphs.values():
        graph.replay()
    for _ in range(turns):
        for name, graph in graphs.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) * 1e3 / divisor)
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def measure_limits() -> dict[str, float]:
    """Return the rates in GB/s of a copy (read and written bytes) and of a sum (read bytes)."""
    memory = torch.ones(1 << 28, device="cuda")
    other = torch.empty_like(memory)
    seconds = median_seconds({"copy": lambda: other.copy_(memory), "read": memory.sum}, 0.5, 9)
    size = memory.numel() * 4 / 1e9
    return {"copy": round(2 * size / seconds["copy"], 1), "read": round(size / seconds["read"], 1)}


def make_vectors(vectors: int, width: int, sparsity: float) -> torch.Tensor:
    """Return random vectors with the same number of zeros each, at places that are independent."""
    x = torch.randn(vectors, width, device="cuda")
    dropped = torch.rand(vectors, width, device="cuda").argsort(-1) < round(sparsity * width)
    return torch.where(dropped, 0, x).to(DTYPE)


def make_matrices(rows: int, columns: int, count: int) -> list[torch.Tensor]:
    """Return random matrices, one row per input."""
    return [torch.randn(rows, columns, device="cuda", dtype=DTYPE) / rows**0.5 for _ in range(count)]


def run_each(products: Sequence[Callable[[Any], Any]], xs: Sequence[torch.Tensor]) -> Callable[[], None]:
    """Return a function that calls each product with a vector of its own."""

    def call() -> None:
        for product, x in zip(products, xs, strict=True):
            product(x)

    return call


def measure_product(rows: int, columns: int, count: int, vectors: int = 1) -> list[dict[str, Any]]:
    """Time both forms of a product at several sparsities, next to the dense product in both layouts."""
    matrices = make_matrices(rows, columns, count)
    views = [matrix.t() for matrix in matrices]
    stock = [view.contiguous() for view in views]
    lines = []
    for sparsity in SPARSITIES:
        xs = [make_vectors(vectors, rows, sparsity) for _ in matrices]
        calls: dict[str, Callable[[], Any]] = {
            "dense": run_each([lambda x, w=weight: linear(x, w) for weight in stock], xs),
            "dense_input_major": run_each([lambda x, w=view: linear(x, w) for view in views], xs),
        }
        for form in ("list", "mask"):
            tiles = (replace(ONE_VECTOR, form=form), replace(SEVERAL_VECTORS, form=form))
            calls[form] = run_each([KeptInputs(matrix, None, ProductLimits(), *tiles) for matrix in matrices], xs)
        times = time_graphs(calls, count)
        share = statistics.mean((x != 0).any(0).float().mean().item() for x in xs)
        read = share * rows * columns * 2
        line = {"matrix": f"{rows}x{columns}", "vectors": vectors, "sparsity": sparsity, "us": times}
        line["list_gb_per_s"] = round(read / times["list"] / 1e3)
        line["dense_gb_per_s"] = round(rows * columns * 2 / times["dense"] / 1e3)
        line["speedup"] = {form: round(times["dense"] / times[form], 3) for form in ("list", "mask")}
        lines.append(line)
        print("product", line, flush=True)
    return lines


class SparseFFN:
    """A gated FFN on the kernels, with top-k at both of its inputs. The rule is left out as `accelerate` does it."""

    def __init__(
        self, shape: Shape, gate_up: torch.Tensor, down: torch.Tensor, sparsity: float, when_slower: str
    ) -> None:
        table = LimitTable(make_backend())
        rule = BoundRule(sd.TopK(1 - sparsity))
        self._may_be_dense = when_slower == "dense"
        self._select_input = make_selector(rule, shape.hidden, DTYPE)
        self._select_intermediate = make_selector(rule, shape.width, DTYPE)
        self._gate_up = KeptInputs(gate_up, None, table.find_limits(gate_up, rule, times_rule=True))
        self._down = KeptInputs(down, None, table.find_limits(down, rule, times_rule=True))
        self._without_rule = [DenseCalls(gate_up), DenseCalls(down)]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the FFN of a few vectors."""
        gate, up = self._multiply(self._gate_up, self._select_input, self._without_rule[0], x).chunk(2, -1)
        return self._multiply(self._down, self._select_intermediate, self._without_rule[1], silu(gate) * up)

    def _multiply(self, product: KeptInputs, select: Any, without_rule: DenseCalls, x: torch.Tensor) -> torch.Tensor:
        vectors = x.shape[0]
        if self._may_be_dense and product.limits.rule_is_slower[vectors - 1]:
            without_rule.add(vectors)
            return product.multiply_dense(x)
        return product(select(x))

    def dense_call_share(self) -> float:
        """Return the share of the calls that read all weights."""
        counts = [self._gate_up.counts(), self._down.counts(), *(calls.counts() for calls in self._without_rule)]
        return sum(count.dense_calls for count in counts) / sum(count.calls for count in counts)


def measure_ffns(shape: Shape, when_slower: str) -> list[dict[str, Any]]:
    """Time a whole FFN with its rules, for one and for several vectors."""
    ups = make_matrices(shape.hidden, 2 * shape.width, shape.layers)
    downs = make_matrices(shape.width, shape.hidden, shape.layers)
    stock = []
    for gate_up, down in zip(ups, downs, strict=True):
        gate, up = gate_up.t().contiguous().chunk(2, 0)
        stock.append((gate, up, down.t().contiguous()))

    def make_dense(weights: tuple[torch.Tensor, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: linear(silu(linear(x, weights[0])) * linear(x, weights[1]), weights[2])

    lines = []
    for vectors in VECTORS:
        xs = [torch.randn(vectors, shape.hidden, device="cuda").to(DTYPE) for _ in ups]
        calls: dict[str, Callable[[], Any]] = {"dense": run_each([make_dense(weights) for weights in stock], xs)}
        ffns: dict[float, list[SparseFFN]] = {}
        for sparsity in SPARSITIES:
            ffns[sparsity] = [SparseFFN(shape, *pair, sparsity, when_slower) for pair in zip(ups, downs, strict=True)]
            calls[str(sparsity)] = run_each(ffns[sparsity], xs)
        times = time_graphs(calls, shape.layers)
        line: dict[str, Any] = {"ffn": shape.name, "when_slower": when_slower, "vectors": vectors, "us": times}
        line["speedup"] = {name: round(times["dense"] / us, 3) for name, us in times.items() if name != "dense"}
        line["dense_call_share"] = {str(value): ffn[0].dense_call_share() for value, ffn in ffns.items()}
        lines.append(line)
        print("ffn", line, flush=True)
    limits = LimitTable(make_backend())
    for matrix in (ups[0], downs[0]):
        print("limits", shape.name, tuple(matrix.shape), limits.find_limits(matrix).largest_share, flush=True)
    return lines


def measure_rules(shape: Shape) -> dict[str, float]:
    """Return the microseconds of the rules of one FFN."""
    result = {}
    for width in (shape.hidden, shape.width):
        for rule in (sd.TopK(0.3), sd.TopP(0.7)):
            select = make_selector(BoundRule(rule), width, DTYPE)
            xs = [torch.randn(1, width, device="cuda").to(DTYPE) for _ in range(32)]
            name = f"{rule.name} {width}"
            result[name] = time_graphs({name: run_each([select] * 32, xs)}, 32)[name]
    print("rules, us", result, flush=True)
    return result


def make_llama() -> Any:
    """Return a model of the shape of Llama-3.2-1B with random weights."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        return LlamaForCausalLM(LlamaConfig(**LLAMA_1B)).to(DTYPE).eval()


def generate(model: Any, cache: str, tokens: int) -> None:
    """Generate a fixed number of tokens, greedily."""
    ids = torch.arange(10, 42, device="cuda")[None]
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=0,
        eos_token_id=model.config.vocab_size,  # never generated, so that the number of tokens is fixed
        cache_implementation=cache,
        max_new_tokens=tokens,
        do_sample=False,
    )


def measure_model(sparsities: Sequence[float], tokens: int = 64) -> dict[str, Any]:
    """Time prefill and generation of a whole model, and compare the memory of its weights."""
    stock = make_llama()
    result: dict[str, Any] = {}
    gc.collect()
    before = torch.cuda.memory_allocated()
    model = make_llama()
    gc.collect()
    size = torch.cuda.memory_allocated() - before
    for sparsity, when_slower in itertools.product(sparsities, WHEN_SLOWER):
        with sd.accelerate(model, "all_inputs", sd.TopK(1 - sparsity), when_slower=when_slower) as fast:
            gc.collect()
            if "prefill" not in result:
                result["memory_ratio"] = round((torch.cuda.memory_allocated() - before) / size, 4)
                result["prefill"] = measure_prefill(stock, fast)
                print("model: memory and prefill", result, flush=True)
            for cache in ("dynamic", "static"):
                fast.reset()
                line = time_generation(stock, fast, cache, tokens)
                result[f"tokens_per_s, {cache} cache, sparsity {sparsity}, {when_slower}"] = line
                print("model", cache, sparsity, when_slower, line, str(fast.report()), flush=True)
    return result


def time_generation(stock: Any, fast: Any, cache: str, tokens: int) -> dict[str, float]:
    """Return the tokens per second of both models, timed in turns, and their ratio."""
    calls = {
        name: lambda contender=contender: generate(contender, cache, tokens)
        for name, contender in (("stock", stock), ("fast", fast))
    }
    for call in calls.values():
        call()  # compiles
    seconds = median_seconds(calls, 1.0, 3)
    line = {name: round(tokens / value, 1) for name, value in seconds.items()}
    line["speedup"] = round(seconds["stock"] / seconds["fast"], 3)
    return line


@torch.no_grad()
def measure_prefill(stock: Any, fast: Any) -> dict[str, float]:
    """Return the time of a prefill divided by that of the stock model."""
    ratios = {}
    for length in (128, 512, 2048):
        ids = torch.arange(length, device="cuda")[None] + 10
        calls = {
            name: lambda model=model, ids=ids: model(ids, logits_to_keep=1, use_cache=False)
            for name, model in (("stock", stock), ("fast", fast))
        }
        times = time_graphs(calls, 1)
        ratios[str(length)] = round(times["fast"] / times["stock"], 3)
    return ratios


def list_sweep(vectors: int) -> list[TileSizes]:
    """Return the tile sizes to try."""
    tiles = []
    if vectors == 1:
        sizes = [(8, 256, 1, False), (16, 256, 1, False), (8, 512, 2, False), (16, 512, 2, False), (8, 1024, 4, False)]
        sizes += [(8, 256, 4, True), (16, 256, 4, True), (32, 256, 4, True), (32, 256, 8, True), (64, 256, 8, True)]
        sizes += [(16, 512, 4, True), (32, 128, 4, True), (64, 128, 4, True)]
        for (rows, columns, warps, keeps), stages in itertools.product(sizes, (1, 3)):
            if stages == 1 or rows >= 16:
                tiles.append(TileSizes("list", rows, columns, warps, 16 // warps, stages, keeps))
        for rows, columns, warps, keeps in sizes[::2]:
            tiles.append(TileSizes("mask", 2 * rows, columns, warps, 16 // warps, 1, keeps))
        return tiles
    for rows, columns, warps in ((32, 128, 4), (64, 128, 4), (64, 64, 4), (32, 256, 4), (64, 256, 8), (128, 64, 4)):
        for stages in (2, 4):
            tiles.append(TileSizes("list", rows, columns, warps, 4, stages))
    return tiles


def sweep(shape: Shape, vectors: int, sparsity: float) -> list[dict[str, Any]]:
    """Time many tile sizes for both matrices of an FFN. Each is tried with several numbers of programs."""
    lines = []
    for rows, columns in ((shape.hidden, 2 * shape.width), (shape.width, shape.hidden)):
        matrices = make_matrices(rows, columns, shape.layers)
        xs = [make_vectors(vectors, rows, sparsity) for _ in matrices]
        stock = [matrix.t().contiguous() for matrix in matrices]
        dense = time_graphs({"dense": run_each([lambda x, w=weight: linear(x, w) for weight in stock], xs)}, len(xs))
        for tiles in list_sweep(vectors):
            for factor in (1, 2, 4):
                current = replace(tiles, programs=max(1, tiles.programs * factor // 2))
                line: dict[str, Any] = {"ffn": shape.name, "matrix": f"{rows}x{columns}", "vectors": vectors}
                line |= {"sparsity": sparsity, "dense_us": dense["dense"], "tiles": str(current)}
                try:
                    products = [KeptInputs(matrix, None, ProductLimits(), current, current) for matrix in matrices]
                    line["us"] = time_graphs({"kernel": run_each(products, xs)}, len(xs), turns=5)["kernel"]
                except Exception as error:  # a tile may need too much memory
                    line["error"] = repr(error)[:200]
                lines.append(line)
        fastest = sorted((line for line in lines if "us" in line and line["matrix"] == f"{rows}x{columns}"), key=_time)
        for line in fastest[:6]:
            print("sweep", line["ffn"], line["matrix"], f"{vectors} vectors, sparsity {sparsity}:", flush=True, end=" ")
            print(f"{line['us']} us, dense {line['dense_us']} us,", line["tiles"].removeprefix("TileSizes"), flush=True)
    return lines


def _time(line: dict[str, Any]) -> float:
    return float(line["us"])


def run_sweep(quick: bool) -> dict[str, Any]:
    """Time many tile sizes."""
    lines = sweep(SHAPES[0], 1, 0.7) + sweep(SHAPES[1], 1, 0.7)
    if not quick:
        lines += sweep(SHAPES[0], 2, 0.7) + sweep(SHAPES[0], 8, 0.7) + sweep(SHAPES[0], 1, 0.0)
    return {"sweep": lines}


def run_measurements(quick: bool) -> dict[str, Any]:
    """Run all measurements. A part that fails is reported, and the others still run."""
    result: dict[str, Any] = {}
    parts: dict[str, Callable[[], Any]] = {}
    for shape in SHAPES:
        parts[f"rules {shape.name}"] = lambda shape=shape: measure_rules(shape)
        for rows, columns in ((shape.hidden, 2 * shape.width), (shape.width, shape.hidden)):
            parts[f"product {rows}x{columns}"] = lambda a=rows, b=columns, n=shape.layers: measure_product(a, b, n)
        for choice in WHEN_SLOWER:
            parts[f"ffn {shape.name}, {choice}"] = lambda shape=shape, choice=choice: measure_ffns(shape, choice)
    parts["model 1B"] = lambda: measure_model((0.7,) if quick else (0.5, 0.7))
    for name, part in parts.items():
        try:
            result[name] = part()
        except Exception as error:
            traceback.print_exc()
            result[name] = {"error": repr(error)[:300]}
            print(name, "failed:", repr(error)[:300], flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="Time many tile sizes instead.")
    parser.add_argument("--quick", action="store_true", help="Fewer sparsities of the model, or fewer sweeps.")
    arguments = parser.parse_args()
    limits = measure_limits()
    print(f"physical limit: a copy moves {limits['copy']} GB/s, a sum reads {limits['read']} GB/s", flush=True)
    run = run_sweep if arguments.sweep else run_measurements
    name = "gpu-products-sweep" if arguments.sweep else "gpu-products"
    with torch.no_grad():
        measured = run(arguments.quick)
    head = {"machine": describe_machine(), "versions": package_versions(), "gb_per_s": limits}
    save_result(f"{name}-{device_slug()}", {**head, **measured})


if __name__ == "__main__":
    main()
