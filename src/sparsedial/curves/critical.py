"""Critical sparsity of a curve, with a 95% confidence interval whose ends are measured points.

A curve is piecewise linear through (0, 1) and the measured points (sparsity, retention). The estimate of critical
sparsity is the highest sparsity at which the curve is at least ``retain`` (arXiv 2509.00454: 0.99). Retention is
defined in `sparsedial.curves.retention`.

The estimate is a maximum over noise, and resampling it does not show how far it may be off. The interval is therefore
made from tests of the measured points, see `sparsedial.curves.point_tests`. docs/intervals.md explains it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np

from sparsedial.curves.crossings import Crossings, find_crossings
from sparsedial.curves.curve import Curve, make_curve
from sparsedial.curves.paired_scores import pair_scores
from sparsedial.curves.point_tests import compute_verdict_statistic, fewest_examples
from sparsedial.errors import SpecError

RETAIN = 0.99
CROSSED = "crossed"
RIGHT_CENSORED = "right-censored"
LEFT_CENSORED = "left-censored"
KEEPS = "keeps"
LOSES = "loses"
UNDECIDED = "undecided"

MAX_INTERPOLATION = 0.2
"""Largest distance of two neighboring points, in sparsity, between which a crossing is interpolated."""

DISTANCE_TOLERANCE = 1e-9
"""Two distances are equal if they differ by less than this."""


@dataclass(frozen=True)
class PointVerdict:
    """The test of whether one measured point keeps the required share of the dense score.

    Attributes:
        sparsity: Sparsity of the point.
        p: Rule parameter of the point. None if unknown.
        verdict: ``keeps``, ``loses`` or ``undecided``.
    """

    sparsity: float
    p: float | None
    verdict: str


@dataclass(frozen=True, repr=False)
class CriticalSparsity:
    """The highest sparsity that keeps a share ``retain`` of the dense score.

    Attributes:
        estimate: The highest crossing of the curve, as a fraction. None if its neighboring points are further apart
            than `MAX_INTERPOLATION`. The critical sparsity is then only known to lie in an interval.
        low: Lower end of the 95% interval: the sparsity of the last point that keeps the score according to its test,
            or 0 if there is none. None without per-example scores.
        high: Upper end of the 95% interval: the sparsity of the first point from which on every point loses the score
            according to its test, or that of the last point if there is none. None without per-example scores.
        first_crossing: Lowest sparsity at which the curve falls below ``retain``. Equal to ``estimate`` if the curve
            crosses once. None if its neighboring points are further apart than `MAX_INTERPOLATION`.
        status: ``crossed``; ``right-censored`` if the last point still keeps ``retain``, so that ``estimate`` is a
            lower bound; ``left-censored`` if no measured point keeps it, so that the critical sparsity lies between 0
            and the sparsity of the first point.
        p: Rule parameter at ``estimate``, interpolated. None if unknown, or if ``estimate`` lies before the first
            point.
        retain: Share of the dense score to keep.
        right_censored: True if the last point does not lose the score according to its test, so that the interval has
            no upper end and ``high`` is only a lower bound of it.
        p_low: Rule parameter of the point at ``low``. None if ``low`` is no measured point.
        p_high: Rule parameter of the point at ``high``. None if there is no interval.
        verdicts: The test of each point, in ascending order of sparsity. Empty without per-example scores.
        fewest_examples: Number of examples below which a point at which no score changes cannot be shown to keep the
            score. 0 if unknown.
        bracket: The points around the highest crossing, as sparsities. Both are the last point if that keeps
            ``retain``.
    """

    estimate: float | None
    low: float | None
    high: float | None
    first_crossing: float | None
    status: str
    p: float | None
    retain: float = RETAIN
    right_censored: bool = False
    p_low: float | None = None
    p_high: float | None = None
    verdicts: tuple[PointVerdict, ...] = ()
    fewest_examples: int = 0
    bracket: tuple[float, float] = (0.0, 1.0)

    def __repr__(self) -> str:
        """Return the estimate, the interval and p as text. Percentages are rounded to tenths."""
        if self.estimate is None:
            value = f"between {self.bracket[0]:.1%} and {self.bracket[1]:.1%}"
        else:
            value = f"{self.estimate:.1%}"
        parts = [value, self.status]
        if self.low is not None and self.high is not None:
            sign = "≥" if self.right_censored else ""
            parts.insert(1, f"95% interval {self.low:.1%} to {sign}{self.high:.1%}")
        if self.p is not None:
            parts.append(f"p={self.p:.4g}")
        return f"CriticalSparsity({', '.join(parts)}, retain={self.retain:g})"

    @property
    def center(self) -> float:
        """The estimate, or the middle of ``bracket`` if there is none."""
        if self.estimate is None:
            return sum(self.bracket) / 2
        return self.estimate

    @property
    def value(self) -> float | None:
        """The estimate. Another name of ``estimate``."""
        return self.estimate

    @property
    def high_censored(self) -> bool:
        """True if ``high`` is a lower bound. Another name of ``right_censored``."""
        return self.right_censored

    @property
    def low_bracket(self) -> tuple[float, float] | None:
        """The point at ``low`` and the next point, as sparsities. None if there is no interval or no next point.

        Only points between these two can raise the lower end.
        """
        if self.low is None:
            return None
        later = [point.sparsity for point in self.verdicts if point.sparsity > self.low]
        return (self.low, later[0]) if later else None

    @property
    def high_bracket(self) -> tuple[float, float] | None:
        """The point before ``high`` and the point at ``high``, as sparsities. None if there is no upper end.

        Only points between these two can reduce the upper end.
        """
        if self.high is None or self.right_censored:
            return None
        earlier = [point.sparsity for point in self.verdicts if point.sparsity < self.high]
        return (max([0.0, *earlier]), self.high)

    @property
    def undecided_width(self) -> float | None:
        """Distance of the inner points of the interval, which only more examples can decide.

        It is 0 if the interval has fewer than two inner points, and None if there is no interval.
        """
        if self.low is None or self.high is None:
            return None
        if self.low_bracket is None:
            return 0.0
        last = self.high if self.high_bracket is None else self.high_bracket[0]
        return max(0.0, last - self.low_bracket[1])

    def needs_points(self, half_width: float = 0.02) -> bool:
        """Return True if further points, rather than only further examples, would narrow the interval.

        Args:
            half_width: Half of the desired width, as a fraction of sparsity.
        """
        if self.low is None or self.high is None or self.undecided_width is None:
            return False
        return self.high - self.low > 2 * half_width and self.high - self.low - self.undecided_width > half_width

    def examples_needed(self, examples: int, half_width: float = 0.02) -> int | None:
        """Estimate how many examples would narrow the interval to ``±half_width``.

        The distance of the undecided points is assumed to be inversely proportional to the square root of the number
        of examples. The rest of the interval can only be narrowed by measuring more points. If ``low`` is 0, at least
        ``fewest_examples`` are needed. If ``right_censored`` is True, the result is a lower bound.

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
        width = self.high - self.low
        if self.verdicts and width > 2 * half_width:
            width = self.undecided_width or 0.0
        needed = math.ceil(round(examples * (width / 2 / half_width) ** 2, 6))
        if self.low == 0.0:
            needed = max(needed, self.fewest_examples)
        if self.right_censored and needed <= examples:
            return None
        return needed


def critical_sparsity(
    points: Curve | Sequence[object],
    retain: float = RETAIN,
    *,
    dense: float | Sequence[float] | np.ndarray | None = None,
    higher_is_better: bool = True,
) -> CriticalSparsity:
    """Compute the highest sparsity with retention at least ``retain``, and its 95% interval.

    Args:
        points: A `Curve`, or tuples ``(sparsity, score)`` or ``(sparsity, score, p)`` as for `make_curve`, which raises
            a `SpecError` for invalid points.
        retain: Share of the dense score to keep, in (0, 1].
        dense: The dense score, or one dense score per example. Not needed if ``points`` is a `Curve` or has a point
            at sparsity 0.
        higher_is_better: Direction of the metric. Not used if ``points`` is a `Curve`, which has its own.

    Returns:
        The critical sparsity. It has no interval if the scores of the examples are not known, or if a task has only
        one example.

    Raises:
        SpecError: ``retain`` is outside (0, 1].

    Example:
        >>> critical = critical_sparsity([(0.0, 0.50), (0.3, 0.50), (0.5, 0.48)])
        >>> round(critical.estimate, 3), critical.status, critical.low
        (0.35, 'crossed', None)
    """
    if not isinstance(retain, Real) or not 0.0 < retain <= 1.0:
        raise SpecError(f"retain={retain!r}: expected a number in (0, 1]")
    measured = points if isinstance(points, Curve) else make_curve(points, dense, higher_is_better)
    crossing = _find_crossing(measured, retain)
    scores = pair_scores(measured)
    if scores is None:
        return crossing
    fewest = fewest_examples(measured, scores, retain)
    verdicts = _judge_points(measured, compute_verdict_statistic(measured, scores, retain, fewest))
    lower = PointVerdict(0.0, None, KEEPS)  # the dense model
    for point in verdicts:
        if point.verdict == KEEPS:
            lower = point
    losing = _final_losses(verdicts)
    upper = [*losing, verdicts[-1]][0]
    return replace(
        crossing,
        low=lower.sparsity,
        high=upper.sparsity,
        right_censored=not losing,
        p_low=lower.p,
        p_high=upper.p,
        verdicts=verdicts,
        fewest_examples=fewest,
    )


def _find_crossing(measured: Curve, retain: float) -> CriticalSparsity:
    """Return the critical sparsity without its interval."""
    crossings = find_crossings(measured.sparsity, measured.retention[None], retain)
    estimate = _unless_gap(measured, float(crossings.highest[0]))
    return CriticalSparsity(
        estimate=estimate,
        low=None,
        high=None,
        first_crossing=_unless_gap(measured, float(crossings.first[0])),
        status=_status(crossings),
        p=_interpolate_p(measured, estimate),
        retain=retain,
        bracket=_neighbors(measured, int(crossings.last_kept[0])),
    )


def _judge_points(measured: Curve, statistic: np.ndarray) -> tuple[PointVerdict, ...]:
    verdicts = []
    for sparsity, p, value in zip(measured.sparsity, measured.p, statistic, strict=True):
        verdict = UNDECIDED
        if value > 1:
            verdict = KEEPS
        elif value < -1:
            verdict = LOSES
        known_p = None
        if np.isfinite(p):
            known_p = float(p)
        verdicts.append(PointVerdict(float(sparsity), known_p, verdict))
    return tuple(verdicts)


def _final_losses(verdicts: Sequence[PointVerdict]) -> Sequence[PointVerdict]:
    """Return the points at the end of the curve that all lose the score."""
    start = len(verdicts)
    while start > 0 and verdicts[start - 1].verdict == LOSES:
        start -= 1
    return verdicts[start:]


def _neighbors(measured: Curve, last_kept: int) -> tuple[float, float]:
    """Return the sparsity of a point and of the next one. Point 0 is the dense one, and the last one has no next."""
    sparsity = [0.0, *measured.sparsity.tolist()]
    return sparsity[last_kept], sparsity[min(last_kept + 1, len(sparsity) - 1)]


def _unless_gap(measured: Curve, crossing: float) -> float | None:
    """Return a crossing, or None if its neighboring points are further apart than `MAX_INTERPOLATION`."""
    sparsity = np.concatenate([[0.0], measured.sparsity])
    after = int(np.searchsorted(sparsity, crossing))  # index of the first point that is not below the crossing
    if sparsity[min(after, len(sparsity) - 1)] == crossing:
        return crossing
    is_gap = sparsity[after] - sparsity[after - 1] > MAX_INTERPOLATION + DISTANCE_TOLERANCE
    if is_gap:
        return None
    return crossing


def _status(crossings: Crossings) -> str:
    """Return the status of the first curve."""
    if crossings.is_right_censored[0]:
        return RIGHT_CENSORED
    if crossings.keeps_at_no_point[0]:
        return LEFT_CENSORED
    return CROSSED


def _interpolate_p(measured: Curve, sparsity: float | None) -> float | None:
    """Return the rule parameter at a sparsity. None below the first point whose parameter is known."""
    is_known = np.isfinite(measured.p)
    if sparsity is None or not is_known.any() or sparsity < measured.sparsity[is_known][0]:
        return None
    return float(np.interp(sparsity, measured.sparsity[is_known], measured.p[is_known]))
