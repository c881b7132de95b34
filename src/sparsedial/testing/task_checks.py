"""The suite for tasks."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import torch

from sparsedial.hooks.sparsifier import Sparsifier, sparsify
from sparsedial.models.loading import LanguageModel
from sparsedial.rules import TopP
from sparsedial.tasks.base import Scores, Task
from sparsedial.tasks.batch_option import BatchedTask
from sparsedial.tasks.example_blocks import DivisibleTask, ExampleBlock, find_block, without_examples
from sparsedial.testing.expectation import expect

BATCHES = (1, 3)
SPARSE_P = 0.5


def check_task(
    task: Task, lm: LanguageModel, *, site: str = "input", examples: int | None = None, batch_tolerance: float = 0.01
) -> None:
    """Check that a task scores a model reproducibly, and that its scores belong to its examples.

    An `AssertionError` is raised for the first fault. These properties are checked:

    - `Task.identity` is plain JSON with the name and a version, and is the same for a copy of the task.
    - `Task.prepare` returns plain JSON and does not depend on global random generators.
    - `Task.score` returns one finite number for each example, the same in each call, and does not change the examples.
    - With a rule at its dense value, the scores equal the dense ones exactly, and tokens are counted.
    - With a sparse rule, there is the same number of finite scores.
    - Blocks of examples have the settings and, beyond rounding, the scores of the whole, if the task has the methods of
      `DivisibleTask`.
    - The batch size changes neither the number of counted tokens nor, beyond rounding, the scores, if the task has the
      methods of `BatchedTask`.

    Args:
        task: The task, with options that make it fast.
        lm: A loaded model that the task works with, for example a model of the zoo.
        site: Site at which rules are applied. Defaults to "input".
        examples: Number of examples that the options of the task declare. Defaults to None, which means unknown.
        batch_tolerance: Allowed mean difference of the scores between batch sizes, and between blocks and the whole.
            Defaults to 0.01.
    """
    _check_attributes(task)
    prepared = _check_prepare(task, lm)
    dense = _score(task, lm, prepared)
    repeated = _score(task, lm, prepared)
    expect(examples in (None, len(dense)), f"{task.name}: {len(dense)} scores, expected {examples}")
    expect(np.array_equal(dense, repeated), f"{task.name}: a second call of score gives other scores")
    at_dense_value, total = _score_sparse(task, lm, prepared, site, 1.0)
    expect(np.array_equal(at_dense_value, dense), f"{task.name}: at p = 1, the scores are not those of the dense model")
    sparse, _ = _score_sparse(task, lm, prepared, site, SPARSE_P)
    expect(len(sparse) == len(dense), f"{task.name}: {len(sparse)} scores of a sparse model, {len(dense)} of the dense")
    if isinstance(task, DivisibleTask) and task.is_divisible and len(dense) > 1:
        _check_blocks(task, lm, dense, batch_tolerance)
    if isinstance(task, BatchedTask):
        for rows in BATCHES:
            scores, batch_total = _score_sparse(task.with_batch(rows), lm, prepared, site, SPARSE_P)
            difference = float(np.abs(scores - sparse).mean())
            expect(difference <= batch_tolerance, f"{task.name}: with batch {rows}, scores differ by {difference:.3g}")
            expect(batch_total == total, f"{task.name}: with batch {rows}, {batch_total} entries counted, not {total}")
            identity = task.with_batch(rows).identity()
            expect(identity == task.identity(), f"{task.name}: the batch size is part of the identity")


def _check_blocks(task: Any, lm: LanguageModel, dense: np.ndarray, tolerance: float) -> None:
    """Check that the two halves of the examples of a `DivisibleTask` are scored like the whole."""
    count = task.count_examples()
    expect(count == len(dense), f"{task.name}: count_examples returns {count}, but there are {len(dense)} scores")
    scores = []
    for block in (ExampleBlock(0, count // 2), ExampleBlock(count // 2, count)):
        part = task.select_examples(block)
        identity = part.identity()
        expect(find_block(identity) == block, f"{task.name}: the identity of {block} does not name them")
        settings = without_examples(identity)
        expect(settings == without_examples(task.identity()), f"{task.name}: {block} have other settings: {settings}")
        scores.append(_score(part, lm, _round_trip(part.prepare(lm), f"{task.name}: prepare")))
        expect(len(scores[-1]) == len(block), f"{task.name}: {len(scores[-1])} scores of {block}")
    difference = float(np.abs(np.concatenate(scores) - dense).mean())
    expect(difference <= tolerance, f"{task.name}: scores of blocks differ from those of the whole by {difference:.3g}")


def _check_attributes(task: Task) -> None:
    expect(isinstance(task.name, str) and task.name, f"{task!r}: name is {task.name!r}, expected text")
    expect(type(task.reuse_mask) is int and task.reuse_mask >= 1, f"{task.name}: reuse_mask is {task.reuse_mask!r}")
    identity = _round_trip(task.identity(), f"{task.name}: identity")
    expect(identity.get("task") == task.name, f"{task.name}: identity has task {identity.get('task')!r}")
    expect("version" in identity, f"{task.name}: identity has no version")
    expect(" at 0x" not in json.dumps(identity), f"{task.name}: identity contains a memory address: {identity}")
    expect(task.identity() == identity, f"{task.name}: a second call of identity returns something else")
    expect(copy.deepcopy(task).identity() == identity, f"{task.name}: a copy of the task has another identity")


def _check_prepare(task: Task, lm: LanguageModel) -> dict[str, Any]:
    """Return the examples, after preparing them twice with other states of the global random generators."""
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()  # the task may use the global generator
    try:
        prepared = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            np.random.seed(seed)
            prepared.append(_round_trip(task.prepare(lm), f"{task.name}: prepare"))
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
    expect(prepared[0] == prepared[1], f"{task.name}: a second call of prepare returns other examples")
    return prepared[0]


def _score(task: Task, lm: LanguageModel, prepared: dict[str, Any], sparsifier: Sparsifier | None = None) -> np.ndarray:
    """Return the scores of a model, after checking them."""
    examples = copy.deepcopy(prepared)
    scores = task.score(lm, examples, sparsifier)
    expect(examples == prepared, f"{task.name}: score changes the examples")
    expect(isinstance(scores, Scores), f"score returned {type(scores).__name__}, expected Scores")
    values = scores.values
    expect(isinstance(values, np.ndarray) and values.ndim == 1, f"scores {values!r}: expected an array of shape [N]")
    expect(values.dtype == np.float64, f"the scores are {values.dtype}, expected float64")
    expect(len(values) and np.isfinite(values).all(), f"scores {values}: expected at least one, and finite numbers")
    expect(scores.higher_is_better in (None, True, False), f"higher_is_better is {scores.higher_is_better!r}")
    return values


def _score_sparse(
    task: Task, lm: LanguageModel, prepared: dict[str, Any], site: str, p: float
) -> tuple[np.ndarray, int]:
    """Return the scores of a sparse model, and the number of entries that were counted."""
    with sparsify(lm.model, site, TopP(p)) as sparsifier:
        values = _score(task, lm, prepared, sparsifier)
    return values, int(sparsifier.stats()["total"].sum())


def _round_trip(data: Any, source: str) -> dict[str, Any]:
    """Return data after a round trip through JSON, and check that they are a plain dictionary."""
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{source} returned {data!r}: expected plain JSON ({error})") from error
    result = json.loads(text)
    expect(isinstance(result, dict), f"{source} returned {type(data).__name__}, expected a dictionary")
    expect(_has_text_keys(data), f"{source} returned keys that are not text: {data!r}")
    return result


def _has_text_keys(data: Any) -> bool:
    """Return True if the keys of all dictionaries in plain JSON are text."""
    if isinstance(data, dict):
        return all(isinstance(key, str) and _has_text_keys(value) for key, value in data.items())
    if isinstance(data, list | tuple):
        return all(map(_has_text_keys, data))
    return True
