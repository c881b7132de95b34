"""The difference of two critical sparsities, with a 95% interval of its own.

Each curve's critical sparsity lies between two neighboring points: the last one below it, which keeps the score, and
the next one, which does not. The interval is the range of the differences over all pairs of such gaps that no test
contradicts. A pair is contradicted

- if the tests of single points contradict one of its gaps, as in `critical_sparsity`, or
- if the paired t-test of the two curves does: the point before the one gap cannot keep less than the point after the
  other gap.

The second kind of test uses the correlation of the curves, so curves that are scored on the same examples have a
narrower interval than the ends of their single intervals imply. docs/intervals.md reports how often it covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsedial.curves.critical import KEEPS, LOSES, RETAIN, PointVerdict, critical_sparsity
from sparsedial.curves.curve import Curve
from sparsedial.curves.paired_scores import PairedScores, TaskScores, pair_scores, split_tasks

MORE = "more"
LESS = "less"
UNCLEAR = "unclear"

MIN_DIFFERENCE = 0.0005
"""Differences between -MIN_DIFFERENCE and MIN_DIFFERENCE are displayed as 0.0 percentage points."""


@dataclass(frozen=True)
class CriticalDifference:
    """The critical sparsity of one curve minus that of another.

    Attributes:
        estimate: The difference of the estimates. None if one of the curves has no estimate.
        low: Lower end of the 95% interval. None without per-example scores.
        high: Upper end of the 95% interval. None without per-example scores.
    """

    estimate: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """``more`` or ``less`` if the first curve tolerates more or less sparsity, else ``unclear``.

        The verdict is ``unclear`` if the interval is not known or reaches within `MIN_DIFFERENCE` of 0.
        """
        return judge_sign(self.low, self.high)


def judge_sign(low: float | None, high: float | None) -> str:
    """Return the sign that an interval supports.

    Args:
        low: Lower end, or None if there is no interval.
        high: Upper end, or None if there is no interval.

    Returns:
        ``more`` if all of the interval is above `MIN_DIFFERENCE`, ``less`` if all of it is below its negative, else
        ``unclear``.

    Example:
        >>> judge_sign(0.01, 0.2), judge_sign(0.0, 0.2), judge_sign(None, None)
        ('more', 'unclear', 'unclear')
    """
    if low is None or high is None:
        return UNCLEAR
    if low > MIN_DIFFERENCE:
        return MORE
    if high < -MIN_DIFFERENCE:
        return LESS
    return UNCLEAR


@dataclass(frozen=True)
class PreparedCurve:
    """A curve with the statistics that all its comparisons with other curves use.

    Attributes:
        curve: The curve.
        retain: Share of the dense score to keep.
        estimate: The estimate of its critical sparsity. None if there is none.
        verdicts: The tests of its points. Empty if the scores of the examples are not known.
        scores: Means and variances of the scores. None if the scores of the examples are not known.
        margins: For each task, the margins of its examples minus their mean, shape [N, K]. NaN if an example was not
            scored at a point.
    """

    curve: Curve
    retain: float
    estimate: float | None
    verdicts: tuple[PointVerdict, ...]
    scores: PairedScores | None
    margins: tuple[np.ndarray, ...]


def prepare_curve(curve: Curve, retain: float = RETAIN) -> PreparedCurve:
    """Prepare a curve for the comparison with several others.

    Args:
        curve: The curve.
        retain: Share of the dense score to keep, in (0, 1]. A `SpecError` is raised for other values.

    Returns:
        The curve, for `compare_prepared_curves`.
    """
    margins = [_centered_margins(task, retain) for task in split_tasks(curve)]
    critical = critical_sparsity(curve, retain)
    return PreparedCurve(
        curve=curve,
        retain=retain,
        estimate=critical.estimate,
        verdicts=critical.verdicts,
        scores=pair_scores(curve),
        margins=tuple(margins),
    )


def critical_difference(
    first: Curve, second: Curve, retain: float = RETAIN, same_examples: bool = True
) -> CriticalDifference:
    """Compute the difference of the critical sparsities of two curves, and its 95% interval.

    A critical sparsity beyond the last point of its curve may be as high as 1.

    Args:
        first: A curve.
        second: The curve to subtract.
        retain: Share of the dense score to keep, in (0, 1]. A `SpecError` is raised for other values.
        same_examples: True if both curves are scored on the same examples in the same order. One of them may have only
            the first of them. The curves are treated as independent if it is False, or if they have different numbers
            of tasks. Defaults to True.

    Returns:
        The difference. It has no interval if the scores of the examples of a curve are not known.

    Example:
        >>> from sparsedial.curves import make_curve
        >>> a = make_curve([(0.3, 1.0), (0.5, 0.98)], dense=1.0)
        >>> b = make_curve([(0.2, 1.0), (0.4, 0.98)], dense=1.0)
        >>> round(critical_difference(a, b).estimate, 3)
        0.1
    """
    return compare_prepared_curves(prepare_curve(first, retain), prepare_curve(second, retain), same_examples)


def compare_prepared_curves(
    first: PreparedCurve, second: PreparedCurve, same_examples: bool = True
) -> CriticalDifference:
    """Compute the difference of the critical sparsities of two curves, as `critical_difference` does.

    Args:
        first: A curve.
        second: The curve to subtract, prepared for the same share of the dense score.
        same_examples: True if both curves are scored on the same examples in the same order. Defaults to True.

    Returns:
        The difference. It has no interval if the scores of the examples of a curve are not known.
    """
    estimate = None
    if first.estimate is not None and second.estimate is not None:
        estimate = first.estimate - second.estimate
    if first.scores is None or second.scores is None:
        return CriticalDifference(estimate, None, None)

    retain = first.retain
    is_possible = _possible_gaps(first.verdicts)[:, None] & _possible_gaps(second.verdicts)[None, :]
    covariance = np.zeros((len(first.curve.sparsity), len(second.curve.sparsity)))
    if same_examples and len(first.margins) == len(second.margins):
        covariance = _margin_covariance(first, second)
    paired = _difference_statistic(first.scores, second.scores, covariance, retain)
    # Gap i lies between the points i and i + 1, where point 0 is dense and column 0 of `paired` is point 1.
    is_consistent = is_possible.copy()
    is_consistent[1:, :-1] &= paired >= -1  # the first curve still keeps the score where the second has lost it
    is_consistent[:-1, 1:] &= paired <= 1
    if is_consistent.any():
        is_possible = is_consistent

    first_points = np.concatenate([[0.0], first.curve.sparsity, [1.0]])
    second_points = np.concatenate([[0.0], second.curve.sparsity, [1.0]])
    lowest = first_points[:-1, None] - second_points[None, 1:]
    highest = first_points[1:, None] - second_points[None, :-1]
    return CriticalDifference(estimate, float(lowest[is_possible].min()), float(highest[is_possible].max()))


def _possible_gaps(verdicts: Sequence[PointVerdict]) -> np.ndarray:
    """Return True for the gaps between points that may hold the critical sparsity, shape [K + 1].

    The point before the gap may keep the score, and no later point was found to keep it.

    Args:
        verdicts: The tests of the K points.
    """
    may_keep = np.array([True, *(point.verdict != LOSES for point in verdicts)])
    keeps = np.array([*(point.verdict == KEEPS for point in verdicts), False])
    later_keeps = np.logical_or.accumulate(keeps[::-1])[::-1]
    return may_keep & ~later_keeps


def _difference_statistic(
    first: PairedScores, second: PairedScores, covariance: np.ndarray, retain: float
) -> np.ndarray:
    """Return the test statistic of the difference of the margins of each pair of points, shape [K1, K2].

    Args:
        first: The scores of the first curve, at K1 points.
        second: The scores of the second curve, at K2 points.
        covariance: Covariance of the mean margins, shape [K1, K2].
        retain: Share of the dense score to keep.
    """
    variance = first.variance(retain)[:, None] + second.variance(retain)[None, :] - 2 * covariance
    extra_variance = first.extra_variance[:, None] + second.extra_variance[None, :]
    quantile = np.maximum(first.quantile[:, None], second.quantile[None, :])
    difference = first.margin(retain)[:, None] - second.margin(retain)[None, :]
    return difference / (quantile * np.sqrt(np.maximum(variance, extra_variance)))


def _margin_covariance(first: PreparedCurve, second: PreparedCurve) -> np.ndarray:
    """Return the covariance of the mean margins of two curves on the same examples, shape [K1, K2]."""
    total = np.zeros((len(first.curve.sparsity), len(second.curve.sparsity)))
    for margins, other_margins in zip(first.margins, second.margins, strict=True):
        is_scored = np.isfinite(margins).astype(np.float64)
        other_is_scored = np.isfinite(other_margins).astype(np.float64)
        common = min(len(margins), len(other_margins))
        shared = is_scored[:common].T @ other_is_scored[:common]
        products = np.nan_to_num(margins[:common]).T @ np.nan_to_num(other_margins[:common])
        covariance = products / np.maximum(shared - 1, 1)  # of the margins of one example
        total += covariance * shared / (is_scored.sum(0)[:, None] * other_is_scored.sum(0)[None, :])
    return total


def _centered_margins(task: TaskScores, retain: float) -> np.ndarray:
    """Return the margins of one task's examples, minus their mean, shape [N, K]. NaN if an example was not scored."""
    margins = task.numerator - retain * task.denominator
    return np.asarray(margins - np.nanmean(margins, 0))
