"""Critical sparsity of a curve, with a confidence interval by the paired bootstrap.

A curve is piecewise linear through (0, 1) and the measured points (sparsity, retention). Critical sparsity is the
highest sparsity at which the curve is at least ``retain`` (arXiv 2509.00454: 0.99).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsedial.curves.bootstrap import RESAMPLES, resample_retention
from sparsedial.curves.crossings import Crossings, find_crossings
from sparsedial.curves.curve import Curve, make_curve
from sparsedial.errors import SpecError

RETAIN = 0.99
TAIL = 0.025  # share of the resamples outside a 95% interval, on each side
CONFIDENCE_QUANTILES = (TAIL, 1 - TAIL)
CROSSED = "crossed"
RIGHT_CENSORED = "right-censored"
LEFT_CENSORED = "left-censored"


@dataclass(frozen=True)
class CriticalSparsity:
    """The highest sparsity that keeps a share ``retain`` of the dense score.

    Attributes:
        value: The critical sparsity, as a fraction.
        low: Lower end of its 95% interval, or None without per-example scores.
        high: Upper end of its 95% interval, or None without per-example scores.
        first_crossing: Lowest sparsity at which the curve falls below ``retain``. Equal to ``value`` if the curve
            crosses once.
        status: ``crossed``; ``right-censored`` if the last point still keeps ``retain``, so that ``value`` is a lower
            bound; ``left-censored`` if no measured point keeps it, so that ``value`` lies between 0 and the sparsity of
            the first point.
        p: Rule parameter at ``value``, interpolated. None if unknown, or if ``value`` lies before the first point.
        retain: Share of the dense score to keep.
        high_censored: True if ``high`` is a lower bound, because more than 2.5% of the resamples keep ``retain`` at the
            last point.
    """

    value: float
    low: float | None
    high: float | None
    first_crossing: float
    status: str
    p: float | None
    retain: float = RETAIN
    high_censored: bool = False

    def examples_needed(self, examples: int, half_width: float = 0.02) -> int | None:
        """Estimate how many examples would narrow the interval to ``±half_width``.

        The width is assumed to be inversely proportional to the square root of the number of examples. If
        ``high_censored`` is True, the result is a lower bound.

        Args:
            examples: Number of examples that the interval was computed from.
            half_width: Half of the desired width, as a fraction of sparsity.

        Returns:
            The number of examples. None if there is no interval, or if the result is a lower bound that does not exceed
            ``examples``.

        Example:
            >>> CriticalSparsity(0.4, 0.36, 0.44, 0.4, "crossed", None).examples_needed(100)
            400
        """
        if self.low is None or self.high is None:
            return None
        needed = math.ceil(round(examples * ((self.high - self.low) / 2 / half_width) ** 2, 6))
        if self.high_censored and needed <= examples:
            return None
        return needed


def critical_sparsity(
    points: Curve | Sequence[object],
    retain: float = RETAIN,
    *,
    dense: float | Sequence[float] | np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> CriticalSparsity:
    """Compute the highest sparsity with retention at least ``retain``, and its 95% interval.

    The interval is that of the paired bootstrap: examples are resampled, dense and sparse together and within each
    task, and the middle 95% of the resampled critical sparsities is returned.

    Args:
        points: A `Curve`, or tuples ``(sparsity, score)`` or ``(sparsity, score, p)`` as for `make_curve`, which raises
            a `SpecError` for invalid points.
        retain: Share of the dense score to keep, in (0, 1].
        dense: The dense score, or one dense score per example. Not needed if ``points`` is a `Curve` or has a point
            at sparsity 0.
        resamples: Number of bootstrap resamples.
        seed: Random seed of the bootstrap.

    Returns:
        The critical sparsity. It has no interval if the scores of the examples are not known.

    Raises:
        SpecError: ``retain`` is outside (0, 1].

    Example:
        >>> critical = critical_sparsity([(0.0, 0.50), (0.3, 0.50), (0.5, 0.48)])
        >>> round(critical.value, 3), critical.status, critical.low
        (0.35, 'crossed', None)
    """
    if not 0.0 < retain <= 1.0:
        raise SpecError(f"retain={retain!r}: expected a number in (0, 1]")
    measured = points if isinstance(points, Curve) else make_curve(points, dense)
    crossings = find_crossings(measured.sparsity, measured.retention[None], retain)
    value = float(crossings.highest[0])
    low = None
    high = None
    high_censored = False
    if measured.examples:
        retention = resample_retention(measured, resamples, seed)
        resampled = find_crossings(measured.sparsity, retention, retain)
        low, high = map(float, np.quantile(resampled.highest, CONFIDENCE_QUANTILES))
        high_censored = bool(resampled.is_right_censored.mean() > TAIL)
    return CriticalSparsity(
        value=value,
        low=low,
        high=high,
        first_crossing=float(crossings.first[0]),
        status=_status(crossings),
        p=_interpolate_p(measured, value),
        retain=retain,
        high_censored=high_censored,
    )


def _status(crossings: Crossings) -> str:
    """Return the status of the first curve."""
    if crossings.is_right_censored[0]:
        return RIGHT_CENSORED
    if crossings.is_left_censored[0]:
        return LEFT_CENSORED
    return CROSSED


def _interpolate_p(measured: Curve, sparsity: float) -> float | None:
    """Return the rule parameter at a sparsity. None below the first point whose parameter is known."""
    is_known = np.isfinite(measured.p)
    if not is_known.any() or sparsity < measured.sparsity[is_known][0]:
        return None
    return float(np.interp(sparsity, measured.sparsity[is_known], measured.p[is_known]))
