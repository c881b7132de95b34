"""Curves of retention over sparsity, critical sparsity with a confidence interval, differences and trends.

These are pure functions of scores. No model is involved.
"""

from sparsedial.curves.chance import is_at_chance
from sparsedial.curves.critical import (
    CROSSED,
    KEEPS,
    LEFT_CENSORED,
    LOSES,
    RETAIN,
    RIGHT_CENSORED,
    UNDECIDED,
    CriticalSparsity,
    PointVerdict,
    critical_sparsity,
)
from sparsedial.curves.curve import Curve, average_at_each_p, make_curve
from sparsedial.curves.difference import LESS, MORE, UNCLEAR, CriticalDifference, critical_difference
from sparsedial.curves.paired_scores import PairedScores, pair_scores, retention_intervals
from sparsedial.curves.retention import compute_retention, is_kept
from sparsedial.curves.size_trend import SizeTrend, fit_size_trend
from sparsedial.curves.task_average import average_retentions_at_each_p, average_tasks

__all__ = [
    "Curve",
    "make_curve",
    "average_at_each_p",
    "average_retentions_at_each_p",
    "average_tasks",
    "compute_retention",
    "is_at_chance",
    "is_kept",
    "PairedScores",
    "pair_scores",
    "retention_intervals",
    "CriticalSparsity",
    "critical_sparsity",
    "PointVerdict",
    "KEEPS",
    "LOSES",
    "UNDECIDED",
    "RETAIN",
    "CROSSED",
    "RIGHT_CENSORED",
    "LEFT_CENSORED",
    "CriticalDifference",
    "critical_difference",
    "SizeTrend",
    "fit_size_trend",
    "MORE",
    "LESS",
    "UNCLEAR",
]
