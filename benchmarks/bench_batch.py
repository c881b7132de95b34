"""How much the number of rows per forward pass moves scores, and how it changes the speed.

Every task is scored with each batch, on the same prepared examples, dense and at a sparse point. Printed: the largest
difference of a score and of an example from the first batch, and the seconds of the dense evaluation.

    python -m benchmarks.bench_batch zoo:dense-0.4m smollm2-135m
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from sparsedial.ffn.discovery import find_ffns
from sparsedial.hooks.sparsifier import sparsify
from sparsedial.models.loading import LanguageModel, load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.rules import TopP
from sparsedial.tasks.base import Task
from sparsedial.tasks.registry import make_tasks
from sparsedial.tasks.spec import TaskSpec


def measure(
    lm: LanguageModel, task: Task, examples: dict, p: float | None, batch: int
) -> tuple[np.ndarray, float, float]:
    """Return the scores, the sparsity and the seconds of one evaluation."""
    batched = task.with_batch(batch)
    began = time.perf_counter()
    if p is None:
        scores = batched.score(lm, examples).values
        return scores, 0.0, time.perf_counter() - began
    with sparsify(lm.model, "input", TopP(p), ffns=find_ffns(lm.model)) as sparsifier:
        scores = batched.score(lm, examples, sparsifier).values
        return scores, sparsifier.sparsity(), time.perf_counter() - began


def main() -> None:
    """Measure all models, data types, tasks and batches that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tasks", default="self_prediction,next_token")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--p", type=float, default=0.9)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    batches = [int(text) for text in args.batches.split(",")]
    options = {"sequences": args.examples, "limit": args.examples}
    for model in args.models:
        for dtype in args.dtypes.split(","):
            lm = load_language_model(resolve_source(model), device=args.device, dtype=dtype)
            for name in args.tasks.split(","):
                own = {
                    key: value for key, value in options.items() if (key == "sequences") == (name == "self_prediction")
                }
                [task] = make_tasks([TaskSpec(name, own)])
                examples = task.prepare(lm)
                for p in (None, args.p):
                    results = [measure(lm, task, examples, p, batch) for batch in batches]
                    first, sparsity, _ = results[0]
                    row = {
                        "model": model, "dtype": dtype, "task": name, "p": p, "score": round(float(first.mean()), 5),
                        "score_change": [round(float(scores.mean() - first.mean()), 5) for scores, _, _ in results],
                        "example_change": [round(float(np.abs(scores - first).max()), 4) for scores, _, _ in results],
                        "examples_changed": [int((scores != first).sum()) for scores, _, _ in results],
                        "sparsity_change": [round(float(other - sparsity), 6) for _, other, _ in results],
                        "seconds": [round(seconds, 2) for _, _, seconds in results],
                    }  # fmt: skip
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
