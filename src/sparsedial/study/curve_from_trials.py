"""Conversion of finished trials to a measured curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sparsedial.curves.curve import Curve, curve_from_scores
from sparsedial.errors import TaskError
from sparsedial.study.pooled_trials import PooledTrial, SampleReader
from sparsedial.study.score_scale import find_direction, find_score_problem
from sparsedial.tasks.example_blocks import ExampleBlock

BlockScores = Mapping[ExampleBlock, np.ndarray]
"""Scores of the examples of each block."""

MIN_SPARSITY = 1e-12
"""Sparsity assigned to a sparse trial without dropped entries, to distinguish it from the dense trial."""


WEIGHTED_BY_INSTRUCTIONS = "inst_level"
"""Part of the names of metrics whose examples are weighted by their number of instructions.

Scores of single examples may then exceed 1, but their mean is a share of the instructions.
"""


def measured_curve(source: SampleReader, dense: PooledTrial, sparse: Sequence[PooledTrial]) -> Curve:
    """Return the curve of the trials of one model, site, rule and task.

    Args:
        source: Source of the per-example scores.
        dense: The trial without a rule.
        sparse: The trials with a rule. Each may have scored a part of the examples.

    Returns:
        A curve with one point per sparse trial. It ends with the last example that a sparse trial has scored.

    Raises:
        TaskError: The dense scores cannot be compared with others (`find_score_problem`), or a sparse trial has scored
            none of their examples.
        SpecError: A sparse score is negative.
    """
    dense_scores = dense.block_samples(source)
    problem = find_score_problem(dense, np.concatenate(list(dense_scores.values())))
    if problem is not None:
        raise TaskError(problem)
    ordered = sorted(sparse, key=lambda trial: trial.result.sparsity)
    scores = [trial.block_samples(source) for trial in ordered]
    for trial, trial_scores in zip(ordered, scores, strict=True):
        if dense_scores.keys().isdisjoint(trial_scores):
            raise TaskError(f"the trial at p={trial.p:g} has scored none of the examples of the dense trial")
    curve = curve_from_scores(
        sparsity=np.array([max(trial.result.sparsity, MIN_SPARSITY) for trial in ordered]),
        p=np.array([trial.p for trial in ordered]),
        matrix=join_blocks(dense_scores, scores),
        higher_is_better=find_direction(dense) is not False,
    )
    if WEIGHTED_BY_INSTRUCTIONS in dense.result.metric:
        return replace(curve, is_unit_scale=True)
    return curve


def join_blocks(dense: BlockScores, sparse: Sequence[BlockScores]) -> np.ndarray:
    """Return the scores of the dense and the sparse trials, up to the last example that a sparse trial has scored.

    Args:
        dense: Scores of the dense trial by block.
        sparse: Scores of each sparse trial by block. Each has a block of the dense trial.

    Returns:
        Scores, float64, shape [examples, 1 + trials]. NaN if an example was not scored.
    """
    blocks = list(dense)
    while not any(blocks[-1] in trial for trial in sparse):
        blocks.pop()  # later blocks only: row i is example i, so that curves can be compared example by example
    parts = []
    for block in blocks:
        missing = np.full(len(dense[block]), np.nan)
        columns = [trial.get(block, missing) for trial in sparse]
        parts.append(np.stack([dense[block], *columns], 1))
    return np.concatenate(parts)
