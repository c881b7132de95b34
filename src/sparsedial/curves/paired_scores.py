"""The paired t-test of whether a measured point keeps a share of the dense score.

The statistic is the *margin*, the mean of ``sparse - retain * dense`` over the examples (``dense - retain * sparse`` if
lower scores are better). Its variance is that of the mean of paired differences, plus that of `EXTRA_CHANGES`
additional examples whose score changed. Without this addition, a point at which no example has changed yet would have
no variance, and a few examples would seem to prove that the model keeps its score. Agresti and Min (2005, Statistics in
Medicine 24) add pseudo-observations to paired proportions for the same reason.

The size of one change is the root mean square of the changes ``sparse - dense`` that are not 0. It is 1 for scores that
are 0 or 1. If fewer than `EXTRA_CHANGES` examples have changed at a point, the size is taken from the next sparser
point at which enough have changed, else from all points, and else from the largest score.

If examples were added to some of the points, the error probability is divided by the number of tests (`count_looks`).

An average over tasks has the sum of the variances, because tasks have different examples. The additional examples are
shared among the tasks in proportion to the variance that one change in each of them causes. In an average of
retentions, the retention of each task is linearized at its measured value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import stdtrit

from sparsedial.curves.curve import Curve

EXTRA_CHANGES = 4
"""Number of additional examples with a changed score in the variance."""

TAIL = 0.025
"""Usual error probability of each of the two one-sided tests of a point, which makes a 95% interval of two ends.

Few right or wrong answers have other ones (`sparsedial.curves.point_tests`).
"""

NO_CHANGE = 1e-12
"""Differences of scores below this share of the largest score are rounding errors."""


@dataclass(frozen=True)
class PairedScores:
    """Retention as a ratio of two means over the examples, with the variances of these means.

    Attributes:
        numerator: Mean of the scores in the numerator of retention, at each point, shape [K].
        denominator: Mean of the scores in its denominator, shape [K].
        numerator_variance: Variance of the mean in the numerator, shape [K].
        denominator_variance: Variance of the mean in the denominator, shape [K].
        covariance: Covariance of the two means, shape [K].
        extra_variance: Variance from `EXTRA_CHANGES` additional changed examples, shape [K].
        degrees: Degrees of freedom of the variance, shape [K].
        looks: Number of times that the points may have been tested, see `count_looks`.
    """

    numerator: np.ndarray
    denominator: np.ndarray
    numerator_variance: np.ndarray
    denominator_variance: np.ndarray
    covariance: np.ndarray
    extra_variance: np.ndarray
    degrees: np.ndarray
    looks: int = 1

    @cached_property
    def quantile(self) -> np.ndarray:
        """Quantile of the t distribution that leaves `TAIL` / `looks` above it, at each point, shape [K]."""
        return self.quantile_above(TAIL)

    def quantile_above(self, tail: float) -> np.ndarray:
        """Return the quantile of the t distribution that leaves ``tail`` / `looks` above it, at each point, shape [K].

        Args:
            tail: Error probability of all tests of a point together.
        """
        return np.asarray(stdtrit(self.degrees, 1 - tail / self.looks))

    def margin(self, retain: float) -> np.ndarray:
        """Return the mean of ``numerator - retain * denominator`` at each point, shape [K].

        Args:
            retain: Share of the dense score to keep.
        """
        return self.numerator - retain * self.denominator

    def variance(self, retain: float) -> np.ndarray:
        """Return the variance of the margin at each point, shape [K].

        Args:
            retain: Share of the dense score to keep.
        """
        paired = self.numerator_variance - 2 * retain * self.covariance + retain**2 * self.denominator_variance
        return np.maximum(paired, 0.0) + self.extra_variance

    def statistic(self, retain: float) -> np.ndarray:
        """Return the margin divided by its tested standard error, at each point, shape [K].

        The tested standard error is the standard error times the quantile: the point keeps the share if the statistic
        is above 1, and does not if it is below -1. Verdicts on few right or wrong answers differ from
        it (`compute_verdict_statistic`).

        Args:
            retain: Share of the dense score to keep.
        """
        return self.margin(retain) / (self.quantile * np.sqrt(self.variance(retain)))


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task's examples in the numerator and the denominator of retention.

    Attributes:
        numerator: Scores in the numerator, shape [N, K]. NaN if an example was not scored at a point.
        denominator: Scores in the denominator, shape [N, K], with the same NaN.
        squared_change: Mean square of one change of an example's score, shape [K].
    """

    numerator: np.ndarray
    denominator: np.ndarray
    squared_change: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Number of scored examples at each point, integer, shape [K]."""
        return np.asarray(np.isfinite(self.numerator).sum(0))


def pair_scores(measured: Curve) -> PairedScores | None:
    """Compute the means and variances of a curve.

    Args:
        measured: A curve. The examples of its tasks are independent.

    Returns:
        The means and variances. None if the scores of the examples are not known, or if a task has only one example at
        a point.
    """
    tasks = split_tasks(measured)
    counts = np.array([task.counts for task in tasks])
    if not tasks or counts.min() < 2:
        return None
    numerator = np.array([np.nanmean(task.numerator, 0) for task in tasks])
    denominator = np.array([np.nanmean(task.denominator, 0) for task in tasks])
    centered_numerator = [_center(task.numerator) for task in tasks]
    centered_denominator = [_center(task.denominator) for task in tasks]
    scale = counts * (counts - 1)
    numerator_variance = _sum_products(centered_numerator, centered_numerator) / scale
    denominator_variance = _sum_products(centered_denominator, centered_denominator) / scale
    covariance = _sum_products(centered_numerator, centered_denominator) / scale
    one_change = np.array([task.squared_change for task in tasks]) / counts**2
    extra = EXTRA_CHANGES * one_change**2 / one_change.sum(0)
    total = np.maximum(numerator_variance - 2 * covariance + denominator_variance, 0.0) + extra
    return PairedScores(
        numerator=numerator.sum(0),
        denominator=denominator.sum(0),
        numerator_variance=numerator_variance.sum(0),
        denominator_variance=denominator_variance.sum(0),
        covariance=covariance.sum(0),
        extra_variance=extra.sum(0),
        degrees=total.sum(0) ** 2 / (total**2 / (counts - 1)).sum(0),  # Welch and Satterthwaite
        looks=max(map(count_looks, counts)),
    )


def count_looks(counts: np.ndarray) -> int:
    """Return how often a point may have been tested before its number of examples was reached.

    A search adds examples to the points that are not decided, and tests them again. If a point may be tested ``k``
    times, each test has to have an error probability of `TAIL` / k (Bonferroni). The numbers of examples tell how often
    examples were added, because the decided points keep theirs.

    Args:
        counts: Number of scored examples of one task at each point, integer, shape [K].

    Returns:
        The number of different numbers of examples.

    Example:
        >>> count_looks(np.array([64, 64, 64])), count_looks(np.array([64, 256, 128, 64]))
        (1, 3)
    """
    return len(np.unique(counts))


def split_tasks(measured: Curve) -> list[TaskScores]:
    """Return the scores in the numerator and the denominator of a curve's retention.

    The margin of the curve is the sum of the tasks' mean margins.

    Args:
        measured: A curve.

    Returns:
        One entry per task. Empty if the scores of the examples are not known.
    """
    if not measured.examples:
        return []
    if not measured.members:
        return [_direct_scores(matrix, measured.higher_is_better) for matrix in measured.examples]
    tasks: list[TaskScores] = []
    for member in measured.members:
        tasks += _linearized_scores(member, 1 / len(measured.members))
    return tasks


def _direct_scores(matrix: np.ndarray, higher_is_better: bool) -> TaskScores:
    sparse = matrix[:, 1:]
    dense = np.where(np.isfinite(sparse), matrix[:, :1], np.nan)
    if higher_is_better:
        return TaskScores(sparse, dense, _squared_change(matrix))
    return TaskScores(dense, sparse, _squared_change(matrix))


def _linearized_scores(member: Curve, weight: float) -> list[TaskScores]:
    """Return scores whose mean is the weighted retention of a curve, and a denominator whose mean is the weight.

    Args:
        member: The curve of one task, or of several with weights.
        weight: Weight of its retention.
    """
    retention = member.retention
    tasks = split_tasks(member)
    mean_denominator = np.sum([np.nanmean(task.denominator, 0) for task in tasks], axis=0)
    slope = weight / np.maximum(mean_denominator, NO_CHANGE)
    share = weight / len(tasks)
    linearized = []
    for task in tasks:
        margins = task.numerator - retention * task.denominator
        numerator = share * retention + slope * (margins - np.nanmean(margins, 0))
        change = task.squared_change * slope**2
        if not member.higher_is_better:
            change = change * retention**2  # the changing score is in the denominator
        denominator = np.where(np.isfinite(numerator), share, np.nan)
        linearized.append(TaskScores(numerator, denominator, change))
    return linearized


def _center(scores: np.ndarray) -> np.ndarray:
    """Return the scores minus their mean at each point, and 0 where an example was not scored, shape [N, K]."""
    return np.nan_to_num(scores - np.nanmean(scores, 0))


def _sum_products(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sums over the examples of the products of two scores of each task, shape [tasks, K]."""
    return np.array([(scores * others).sum(0) for scores, others in zip(first, second, strict=True)])


def retention_intervals(scores: PairedScores) -> tuple[np.ndarray, np.ndarray]:
    """Compute the 95% interval of the retention of each point.

    It consists of the shares of the dense score that the test does not reject (Fieller's interval), so that a point
    keeps a share exactly if the share is below the interval, except with few right or wrong answers
    (`sparsedial.curves.point_tests`).

    Args:
        scores: The means and variances of a curve.

    Returns:
        Lower and upper ends, shape [K] each. NaN if the denominator is not significantly above 0.
    """
    squared_quantile = scores.quantile**2
    square = scores.denominator**2 - squared_quantile * scores.denominator_variance
    square = np.where(square > 0, square, np.nan)
    middle = scores.numerator * scores.denominator - squared_quantile * scores.covariance
    constant = scores.numerator**2 - squared_quantile * (scores.numerator_variance + scores.extra_variance)
    radius = np.sqrt(np.maximum(middle**2 - square * constant, 0.0))
    return (middle - radius) / square, (middle + radius) / square


def _squared_change(matrix: np.ndarray) -> np.ndarray:
    """Return the mean square of the changes of one task's scores at each point, shape [K]. It is above 0."""
    change = matrix[:, 1:] - matrix[:, :1]  # NaN counts as unchanged
    largest = np.nanmax(np.abs(matrix))
    is_changed = np.abs(change) > NO_CHANGE * largest
    counts = is_changed.sum(0)
    squares = np.where(is_changed, change**2, 0.0).sum(0)
    if not counts.any():
        return np.full(len(counts), largest**2 or 1.0)
    following = squares.sum() / counts.sum()
    result = np.empty(len(counts))
    for point in reversed(range(len(counts))):
        if counts[point] >= EXTRA_CHANGES:
            following = squares[point] / counts[point]
        result[point] = following
    return result
