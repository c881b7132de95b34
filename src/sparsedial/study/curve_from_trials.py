"""Conversion of finished trials to a measured curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from sparsedial.curves.curve import Curve, make_curve
from sparsedial.errors import TaskError
from sparsedial.study.records import TrialRecord
from sparsedial.study.score_scale import find_direction, find_score_problem

MIN_SPARSITY = 1e-12
"""Sparsity assigned to a sparse trial without dropped entries, to distinguish it from the dense trial."""


WEIGHTED_BY_INSTRUCTIONS = "inst_level"
"""Part of the names of metrics whose examples are weighted by their number of instructions.

Scores of single examples may then exceed 1, but their mean is a share of the instructions.
"""


class ScoreSource(Protocol):
    """Interface of sources of per-example scores, such as `Store`."""

    def samples(self, record: TrialRecord) -> np.ndarray:
        """Return the per-example scores of a trial.

        Args:
            record: The trial.

        Returns:
            Scores, float64, shape [examples].
        """


def measured_curve(source: ScoreSource, dense: TrialRecord, sparse: Sequence[TrialRecord]) -> Curve:
    """Return the curve of the trials of one model, site, rule and task.

    Args:
        source: Source of the per-example scores.
        dense: The trial without a rule.
        sparse: The trials with a rule.

    Returns:
        A curve with one point per sparse trial.

    Raises:
        TaskError: The dense scores cannot be compared with others (`find_score_problem`).
        SpecError: A sparse score is negative, or the trials differ in their number of examples.
    """
    dense_scores = source.samples(dense)
    problem = find_score_problem(dense, dense_scores)
    if problem is not None:
        raise TaskError(problem)
    points = [(max(trial.result.sparsity, MIN_SPARSITY), source.samples(trial), trial.p) for trial in sparse]
    curve = make_curve(points, dense=dense_scores, higher_is_better=find_direction(dense) is not False)
    if WEIGHTED_BY_INSTRUCTIONS in dense.result.metric:
        return replace(curve, is_unit_scale=True)
    return curve
