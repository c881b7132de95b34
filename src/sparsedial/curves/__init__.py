"""Curves of retention over sparsity, critical sparsity with a confidence interval, and trends over model size.

These are pure functions of scores. No model is involved.
"""

from sparsedial.curves.bootstrap import resample_retention
from sparsedial.curves.critical import (
    CROSSED,
    LEFT_CENSORED,
    RETAIN,
    RIGHT_CENSORED,
    CriticalSparsity,
    critical_sparsity,
)
from sparsedial.curves.curve import Curve, average_at_each_p, make_curve
from sparsedial.curves.size_trend import LESS, MORE, UNCLEAR, SizeTrend, fit_size_trend

__all__ = [
    "Curve",
    "make_curve",
    "average_at_each_p",
    "resample_retention",
    "CriticalSparsity",
    "critical_sparsity",
    "RETAIN",
    "CROSSED",
    "RIGHT_CENSORED",
    "LEFT_CENSORED",
    "SizeTrend",
    "fit_size_trend",
    "MORE",
    "LESS",
    "UNCLEAR",
]
