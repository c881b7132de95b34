"""Conversion of finished trials to a measured curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sparsedial.curves.curve import Curve, make_curve
from sparsedial.study.records import TrialRecord

MIN_SPARSITY = 1e-12
"""Sparsity assigned to a sparse trial without dropped entries, to distinguish it from the dense trial."""


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
    """
    points = [(max(trial.result.sparsity, MIN_SPARSITY), source.samples(trial), trial.p) for trial in sparse]
    return make_curve(points, dense=source.samples(dense))
