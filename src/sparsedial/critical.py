"""Curves, retention and critical sparsity, with a paired bootstrap: pure functions, no model.

A curve is piecewise linear through (0, 1) and the measured points (sparsity, retention). Critical
sparsity is the highest sparsity at which it is at least ``retain`` (arXiv 2509.00454: 0.99).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from sparsedial.errors import SpecError

RETAIN = 0.99
RESAMPLES = 2000
CROSSED, BEYOND, NOT_REACHED = "crossed", "beyond", "not reached"
NOTICED = 0.0005  # a slope within this is 0.0 points
MORE, LESS, UNCLEAR = "more", "less", "unclear"


@dataclass(frozen=True)
class Curve:
    """Measured points of one model at one site, dense and sparse scored on the same examples.

    Attributes:
        sparsity: ``[K]``, ascending. score: ``[K]``. dense: the dense score.
        p: ``[K]``, the dial's value at each point (NaN where unknown).
        examples: for each task, its per-example scores ``[N, 1 + K]``: dense first, then the points; in an average
            over tasks times the task's share. Empty where they are not known, and then there is no interval.
    """

    sparsity: np.ndarray
    score: np.ndarray
    dense: float
    p: np.ndarray
    examples: tuple[np.ndarray, ...] = ()

    @property
    def retention(self) -> np.ndarray:
        """Sparse score / dense score, ``[K]``."""
        return self.score / self.dense


@dataclass(frozen=True)
class CriticalSparsity:
    """The highest sparsity that keeps ``retain`` of the dense score.

    Attributes:
        value: a fraction. low, high: its 95% interval (None without per-example scores).
        first_crossing: the lowest sparsity at which the curve falls below ``retain``; equal to ``value``
            where it crosses once.
        status: ``crossed``; ``beyond``: the last point still keeps it, so ``value`` is a lower bound;
            ``not reached``: no measured point keeps it, so ``value`` lies between dense and the first point.
        p: the dial's value there, interpolated (None where unknown, or before the first point).
        open: the interval's upper end is a lower bound: many resamples still keep ``retain`` at the last point.
    """

    value: float
    low: float | None
    high: float | None
    first_crossing: float
    status: str
    p: float | None
    retain: float = RETAIN
    open: bool = False

    def examples_needed(self, examples: int, half_width: float = 0.02) -> int | None:
        """How many examples would bring the interval to ``±half_width``, by 1/sqrt(N) from ``examples``.

        Where the interval is `open` its known part says at least how many; None where that says nothing.

        >>> CriticalSparsity(0.4, 0.36, 0.44, 0.4, "crossed", None).examples_needed(100)
        400
        """
        if self.low is None or self.high is None:
            return None
        needed = math.ceil(round(examples * ((self.high - self.low) / 2 / half_width) ** 2, 6))
        return None if self.open and needed <= examples else needed


@dataclass(frozen=True)
class SizeTrend:
    """How the critical sparsity of a family changes with the size of its models.

    Attributes:
        slope: of critical sparsity for ten times the parameters. low, high: its 95% interval, over examples
            (None without per-example scores); how much the models scatter about the line is not in it.
        rising: at how many of the ``steps`` from one size to the next it rises.
        bounds: how many of the critical sparsities, or of their intervals' upper ends, are lower bounds.
    """

    slope: float
    low: float | None
    high: float | None
    rising: int
    steps: int
    bounds: int = 0

    @property
    def verdict(self) -> str:
        """``more``: larger models tolerate more; ``less``; ``unclear``: the interval holds 0, or is not known."""
        if self.low is None or self.high is None:
            return UNCLEAR
        return MORE if self.low > NOTICED else LESS if self.high < -NOTICED else UNCLEAR


def curve(points: Sequence[object], dense: float | Sequence[float] | np.ndarray | None = None) -> Curve:
    """A `Curve` from points ``(sparsity, score)``, where score is a number or the per-example scores.

    Args:
        points: tuples ``(sparsity, score)`` or ``(sparsity, score, p)``.
        dense: the dense score or per-example scores; by default those of the point at sparsity 0.

    Raises:
        SpecError: no points, a sparsity outside [0, 1], a score that is not finite, examples that are not
            the same for all points, or no dense score (or one that is not positive).
    """
    rows = [_point(point) for point in points]
    if dense is None:
        at_zero = [values for sparsity, values, _ in rows if sparsity == 0.0]
        if not at_zero:
            raise SpecError("critical_sparsity: no dense score: give a point at sparsity 0, or dense=")
        baseline = at_zero[0]
    else:
        baseline = np.atleast_1d(np.asarray(dense, dtype=np.float64))
    rows = sorted((row for row in rows if row[0] > 0.0), key=lambda row: row[0])
    if not rows:
        raise SpecError("critical_sparsity: no points above sparsity 0, expected at least one")
    columns = [baseline, *(values for _, values, _ in rows)]
    if len({len(values) for values in columns}) != 1:
        raise SpecError(
            f"critical_sparsity: {sorted({len(v) for v in columns})} scores per point; dense and sparse must be "
            "scored on the same examples"
        )
    matrix = np.stack(columns, 1)
    if not np.isfinite(matrix).all():
        raise SpecError("critical_sparsity: a score is NaN or infinite")
    means = matrix.mean(0)
    if means[0] <= 0:
        raise SpecError(f"critical_sparsity: the dense score is {means[0]:g}; retention needs one above 0")
    return Curve(
        sparsity=np.array([sparsity for sparsity, _, _ in rows]),
        score=means[1:],
        dense=float(means[0]),
        p=np.array([p for _, _, p in rows]),
        examples=(matrix,) if len(matrix) > 1 else (),
    )


def task_average(curves: Sequence[Curve], weights: Sequence[float] | None = None) -> Curve:
    """The paper's average over tasks: at each p, the mean sparsity and the mean score of the tasks.

    Args:
        curves: of the tasks. weights: of each; by default all alike.

    Raises:
        SpecError: no curves, or curves measured at different p.

    >>> a = curve([(0.2, 1.0, 0.9), (0.4, 0.5, 0.8)], dense=1.0)
    >>> b = curve([(0.4, 0.5, 0.9), (0.6, 0.5, 0.8)], dense=0.5)
    >>> mean = task_average([a, b])
    >>> mean.sparsity.round(3).tolist(), mean.score.tolist(), mean.dense
    ([0.3, 0.5], [0.75, 0.5], 0.75)
    """
    if not curves:
        raise SpecError("task_average: no curves")
    by_p = [np.argsort(c.p, kind="stable") for c in curves]
    if any(not np.array_equal(c.p[order], curves[0].p[by_p[0]]) for c, order in zip(curves, by_p, strict=True)):
        raise SpecError("task_average: the tasks were measured at different p")
    share = np.ones(len(curves)) if weights is None else np.asarray(weights, dtype=np.float64)
    share = share / share.sum()
    sparsity = share @ [c.sparsity[order] for c, order in zip(curves, by_p, strict=True)]
    score = share @ [c.score[order] for c, order in zip(curves, by_p, strict=True)]
    ascending = np.argsort(sparsity, kind="stable")
    examples = [
        of * matrix[:, [0, *(1 + order[ascending])]]
        for of, c, order in zip(share, curves, by_p, strict=True)
        for matrix in c.examples
    ]
    return Curve(
        sparsity=sparsity[ascending],
        score=score[ascending],
        dense=float(share @ [c.dense for c in curves]),
        p=curves[0].p[by_p[0]][ascending],
        examples=tuple(examples) if all(c.examples for c in curves) else (),
    )


def critical_sparsity(
    points: Curve | Sequence[object],
    retain: float = RETAIN,
    *,
    dense: float | Sequence[float] | np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> CriticalSparsity:
    """The highest sparsity with retention at least ``retain``, with its 95% interval.

    The interval is the paired bootstrap's: examples are resampled, dense and sparse together (within each
    task where there are several), and the middle 95% of the resampled critical sparsities is given.

    Args:
        points: a `Curve`, or ``(sparsity, score)`` tuples; see `curve`.
        retain: the share of the dense score to keep, in (0, 1].
        dense: the dense score, where no point has sparsity 0.

    Raises:
        SpecError: as `curve` says, or ``retain`` outside (0, 1].

    >>> found = critical_sparsity([(0.0, 0.50), (0.3, 0.50), (0.5, 0.48)])
    >>> round(found.value, 3), found.status, found.low
    (0.35, 'crossed', None)
    """
    if not 0.0 < retain <= 1.0:
        raise SpecError(f"retain={retain!r}: expected a number in (0, 1]")
    measured = points if isinstance(points, Curve) else curve(points, dense)
    values, first, last = _crossings(measured.sparsity, measured.retention[None], retain)
    status = BEYOND if last[0] == len(measured.sparsity) else CROSSED if last[0] else NOT_REACHED
    low = high = None
    unbounded = False
    if measured.examples:
        resampled = resampled_retention(measured, resamples, seed)
        spread, _, ends = _crossings(measured.sparsity, resampled, retain)
        low, high = (float(q) for q in np.quantile(spread, [0.025, 0.975]))
        unbounded = bool((ends == len(measured.sparsity)).mean() > 0.025)
    known = np.isfinite(measured.p)
    inside = known.any() and values[0] >= measured.sparsity[known][0]
    p = float(np.interp(values[0], measured.sparsity[known], measured.p[known])) if inside else None
    return CriticalSparsity(float(values[0]), low, high, float(first[0]), status, p, retain, unbounded)


def resampled_retention(measured: Curve, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Retention at each point in each bootstrap resample, ``[B, K]``: paired, and within each task.

    Resamples whose dense score is 0 have no retention and are left out.
    """
    resampled = _resampled(measured, resamples, seed)
    return resampled[np.isfinite(resampled).all(1)]


def size_trend(
    parameters: Sequence[float],
    curves: Sequence[Curve],
    retain: float = RETAIN,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SizeTrend:
    """Whether larger models of a family tolerate more: the slope of critical sparsity over log10(parameters).

    Least squares, every model alike. Its interval resamples the examples of all models at once: those of as
    many examples in the same way, so that models scored on the same ones are paired.

    Args:
        parameters: how many each model has. curves: each model's, in the same order.
        retain: the share of the dense score to keep, in (0, 1].

    Raises:
        SpecError: fewer than two sizes, a size that is not positive, or not one curve per size.

    >>> small, large = curve([(0.2, 1.0), (0.4, 0.98)], dense=1.0), curve([(0.4, 1.0), (0.6, 0.98)], dense=1.0)
    >>> trend = size_trend([1e8, 1e9], [small, large])
    >>> round(trend.slope, 3), trend.low, trend.rising, trend.steps
    (0.2, None, 1, 1)
    """
    sizes = np.asarray(parameters, dtype=np.float64)
    if len(sizes) != len(curves) or not (np.isfinite(sizes) & (sizes > 0)).all() or len(set(sizes.tolist())) < 2:
        raise SpecError(
            f"size_trend: {len(curves)} curves of sizes {sizes.tolist()}; expected one positive size each, "
            "and at least two sizes"
        )
    crossed = [_crossings(c.sparsity, c.retention[None], retain) for c in curves]
    values = np.array([highest[0] for highest, _, _ in crossed])
    x = np.log10(sizes) - np.log10(sizes).mean()
    bounds = np.array([last[0] == len(c.sparsity) for c, (_, _, last) in zip(curves, crossed, strict=True)])
    low = high = None
    if all(c.examples for c in curves):
        resampled = [_resampled(c, resamples, seed) for c in curves]
        known = np.all([np.isfinite(r).all(1) for r in resampled], 0)
        again = [_crossings(c.sparsity, r[known], retain) for c, r in zip(curves, resampled, strict=True)]
        spread = np.stack([highest for highest, _, _ in again], 1) @ x / (x @ x)
        low, high = (float(q) for q in np.quantile(spread, [0.025, 0.975]))
        bounds |= [(last == len(c.sparsity)).mean() > 0.025 for c, (_, _, last) in zip(curves, again, strict=True)]
    means = [values[sizes == size].mean() for size in sorted(set(sizes.tolist()))]
    return SizeTrend(
        slope=float(values @ x / (x @ x)),
        low=low,
        high=high,
        rising=int((np.diff(means) > 0).sum()),
        steps=len(means) - 1,
        bounds=int(bounds.sum()),
    )


def _resampled(measured: Curve, resamples: int, seed: int) -> np.ndarray:
    """Retention in each resample, ``[B, K]``; NaN where the dense score is 0."""
    random = np.random.default_rng(seed)
    total = np.zeros((resamples, 1 + len(measured.sparsity)))
    for matrix in measured.examples:
        count = len(matrix)
        weights = random.multinomial(count, np.full(count, 1.0 / count), size=resamples) / count
        total += weights @ matrix
    dense = np.where(total[:, :1] > 0, total[:, :1], np.nan)
    return total[:, 1:] / dense


def _point(point: object) -> tuple[float, np.ndarray, float]:
    try:
        first, score, *rest = cast("tuple[Any, ...]", point)
        sparsity, values = float(first), np.atleast_1d(np.asarray(score, dtype=np.float64))
        p = float(rest[0]) if rest else math.nan
    except (TypeError, ValueError):
        raise SpecError(
            f"critical_sparsity: point {point!r}: expected (sparsity, score) or (sparsity, score, p)"
        ) from None
    if not 0.0 <= sparsity <= 1.0 or values.ndim != 1:
        raise SpecError(
            f"critical_sparsity: point {point!r}: expected a sparsity in [0, 1] and a score or a list of them"
        )
    return sparsity, values, p


def _crossings(sparsity: np.ndarray, retention: np.ndarray, retain: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row of ``retention [B, K]``: highest crossing, first crossing, index of the last point kept."""
    s = np.concatenate([[0.0], sparsity])
    r = np.concatenate([np.ones((len(retention), 1)), retention], 1)
    keeps = r >= retain
    last = r.shape[1] - 1 - np.argmax(keeps[:, ::-1], 1)
    fails = ~keeps
    first = np.where(fails.any(1), np.argmax(fails, 1) - 1, r.shape[1] - 1)

    def crossing(index: np.ndarray) -> np.ndarray:
        row, after = np.arange(len(r)), np.minimum(index + 1, r.shape[1] - 1)
        fall = r[row, index] - r[row, after]
        share = np.divide(r[row, index] - retain, fall, out=np.zeros(len(r)), where=fall > 0)
        return s[index] + share * (s[after] - s[index])

    return crossing(last), crossing(first), last
