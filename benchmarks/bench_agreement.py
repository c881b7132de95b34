"""How much longer does a trial of self-prediction take with expected agreement than with the hit rate?

    python -m benchmarks.bench_agreement [--model smollm2-135m] [--device cuda] [--dtype bfloat16] [--sequences 64]

Dense and sparse trials with both metrics are timed in turn on the same sequences. Printed: the limit, the median
time of each, and the quartiles of the ratios; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.environment import describe_machine, package_versions
from benchmarks.timing import time_in_turns
from sparsedial.hooks.sparsifier import sparsify
from sparsedial.models.loading import LanguageModel, load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.rules import TopP
from sparsedial.tasks.self_prediction import SelfPrediction

METRICS = ("agreement", "expected_agreement")
SITE, P = "input", 0.9


def main() -> None:
    """Time the trials and print the results."""
    arguments = parse_arguments()
    lm = load_language_model(resolve_source(arguments.model), device=arguments.device, dtype=arguments.dtype)
    calls: dict[str, Callable[[], None]] = {}
    examples = None
    for metric in METRICS:
        task = SelfPrediction(arguments.sequences, arguments.length, metric=metric)
        if examples is None:
            examples = task.prepare(lm)
            print_limit(lm, arguments)
        calls[f"dense {metric}"] = make_dense_trial(lm, task, examples)
        calls[f"sparse {metric}"] = make_sparse_trial(lm, task, examples)
    times = time_in_turns(calls, arguments.seconds, arguments.turns)
    result: dict[str, Any] = {"benchmark": "agreement", **vars(arguments)}
    for kind in ("dense", "sparse"):
        hits, expected = (times[f"{kind} {metric}"] for metric in METRICS)
        ratios = statistics.quantiles((new / old for old, new in zip(hits, expected, strict=True)), n=4)
        seconds = statistics.median(hits), statistics.median(expected)
        print(f"{kind}: {seconds[0]:.4f} s with hits, {seconds[1]:.4f} s with expected agreement, ratio {ratios}")
        result[kind] = {"hits": seconds[0], "expected": seconds[1], "ratio_quartiles": ratios}
    print(json.dumps({**result, "machine": describe_machine(), "versions": package_versions()}))


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="Name of the model.")
    parser.add_argument("--device", default="auto", help="Device.")
    parser.add_argument("--dtype", default="auto", help="Dtype.")
    parser.add_argument("--sequences", type=int, default=64, help="Number of sequences.")
    parser.add_argument("--length", type=int, default=96, help="Tokens of each.")
    parser.add_argument("--seconds", type=float, default=20.0, help="Seconds to measure for.")
    parser.add_argument("--turns", type=int, default=5, help="Fewest turns.")
    return parser.parse_args()


def print_limit(lm: LanguageModel, arguments: argparse.Namespace) -> None:
    """Print the time of the output layer's input and output alone, which every trial has to move."""
    tokens = arguments.sequences * arguments.length
    vocabulary = lm.model.get_input_embeddings().weight.shape[0]
    logits = torch.randn(min(tokens, 1024), vocabulary, device=lm.device)
    times = time_in_turns({"read": lambda: logits.amax(-1)}, 1.0, 5)["read"]
    seconds = statistics.median(times) * tokens / len(logits)
    print(f"limit: reading the logits of {tokens} tokens once takes {seconds:.4f} s")


def make_dense_trial(lm: LanguageModel, task: SelfPrediction, examples: Any) -> Callable[[], None]:
    """Return a function that scores the dense model."""

    def run() -> None:
        task.score(lm, examples)

    return run


def make_sparse_trial(lm: LanguageModel, task: SelfPrediction, examples: Any) -> Callable[[], None]:
    """Return a function that scores the sparse model and reads its sparsity."""

    def run() -> None:
        with sparsify(lm.model, SITE, TopP(P)) as sparsifier:
            task.score(lm, examples, sparsifier)
            sparsifier.sparsity()

    return run


if __name__ == "__main__":
    main()
