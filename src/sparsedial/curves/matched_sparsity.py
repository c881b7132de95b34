"""The difference of the retention of two curves at the same sparsity, with a 95% interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from sparsedial.curves.curve import Curve
from sparsedial.curves.paired_scores import TAIL
from sparsedial.errors import SpecError


@dataclass(frozen=True)
class RetentionDifference:
    """The retention of one curve minus that of another, at the same sparsity.

    Attributes:
        sparsity: The sparsity.
        estimate: The difference, as a fraction of the dense score.
        low: Lower end of its 95% interval.
        high: Upper end of its 95% interval.
    """

    sparsity: float
    estimate: float
    low: float
    high: float


def retention_difference(first: Curve, second: Curve, sparsity: float) -> RetentionDifference | None:
    """Compute the retention of one curve minus that of another at a sparsity.

    The scores of each example are interpolated linearly between the measured points next to the sparsity, of which the
    dense model is one. The interval is that of a paired t-test over the examples, in which the difference is a ratio of
    the mean difference of the scores to the mean dense score. It is widened by the largest error of the interpolation,
    because retention usually falls faster the higher the sparsity is, so a straight line between two points is too low.

    Args:
        first: A curve of one task.
        second: The curve to subtract, scored on the same examples in the same order.
        sparsity: Sparsity between 0 and 1.

    Returns:
        The difference. None if a curve has no point of at least this sparsity, or no scores of at least two examples
        that both have.

    Raises:
        SpecError: A curve is an average over tasks, or lower scores are better.

    Example:
        >>> from sparsedial.curves import make_curve
        >>> dense = np.array([0.5, 0.7, 0.6, 0.6])
        >>> first = make_curve([(0.2, dense), (0.4, dense - 0.06)], dense)
        >>> second = make_curve([(0.5, dense - 0.12)], dense)
        >>> difference = retention_difference(first, second, 0.3)
        >>> round(difference.estimate, 3), round(difference.low, 3), round(difference.high, 3)
        (0.07, -0.065, 0.135)
    """
    for curve in (first, second):
        if len(curve.examples) > 1 or curve.members or not curve.higher_is_better:
            raise SpecError("retention_difference: expected curves of one task whose higher scores are better")
    scores = scores_at_sparsity(first, sparsity)
    other_scores = scores_at_sparsity(second, sparsity)
    if scores is None or other_scores is None:
        return None
    common = min(len(scores), len(other_scores))
    dense = first.examples[0][:common, 0]
    changes = scores[:common] - other_scores[:common]
    is_scored = np.isfinite(changes)
    count = int(is_scored.sum())
    if count < 2:
        return None
    changes = changes[is_scored]
    dense = dense[is_scored]
    estimate = float(changes.mean() / dense.mean())
    deviation = (changes - estimate * dense).std(ddof=1) / math.sqrt(count) / dense.mean()
    margin = float(stdtrit(count - 1, 1 - TAIL) * deviation)
    low = estimate - margin - interpolation_error(second, sparsity)
    return RetentionDifference(sparsity, estimate, low, estimate + margin + interpolation_error(first, sparsity))


def interpolation_error(curve: Curve, sparsity: float) -> float:
    """Return how far the retention can be above the straight line between the neighbors of a sparsity.

    It is assumed that retention does not rise, and falls faster the higher the sparsity is. It is then below the
    continued lines through the two points before and the two points after the sparsity.

    Args:
        curve: A curve.
        sparsity: Sparsity between 0 and that of the last point.

    Returns:
        The difference, as a fraction of the dense score. 0 at a measured point.

    Example:
        >>> from sparsedial.curves import make_curve
        >>> curve = make_curve([(0.2, 0.99), (0.4, 0.95), (0.6, 0.85)], dense=1.0)
        >>> round(interpolation_error(curve, 0.3), 6), interpolation_error(curve, 0.4)
        (0.015, 0.0)
    """
    points = np.concatenate([[0.0], curve.sparsity])
    retention = np.concatenate([[1.0], curve.retention])
    after = int(np.searchsorted(points, sparsity))
    if after == 0 or points[after] == sparsity:
        return 0.0
    line = _continue_line(points, retention, after - 1, sparsity)
    bounds = [float(retention[after - 1])]
    if after >= 2:
        bounds.append(_continue_line(points, retention, after - 2, sparsity))
    if after + 1 < len(points):
        bounds.append(_continue_line(points, retention, after, sparsity))
    return max(0.0, min(bounds) - line)


def _continue_line(points: np.ndarray, retention: np.ndarray, first: int, sparsity: float) -> float:
    """Return the retention at a sparsity on the line through a point and the next one. Infinite if they coincide."""
    width = points[first + 1] - points[first]
    if width == 0.0:
        return math.inf
    slope = (retention[first + 1] - retention[first]) / width
    return float(retention[first] + slope * (sparsity - points[first]))


def scores_at_sparsity(curve: Curve, sparsity: float) -> np.ndarray | None:
    """Return the score of each example at a sparsity, interpolated linearly between the neighboring points.

    Args:
        curve: A curve of one task.
        sparsity: Sparsity between 0 and 1.

    Returns:
        Scores, shape [N]. None if the sparsity is beyond the last point, or if the scores of examples are not known.
    """
    if not curve.examples or sparsity > curve.sparsity[-1]:
        return None
    [matrix] = curve.examples
    points = np.concatenate([[0.0], curve.sparsity])
    after = int(np.searchsorted(points, sparsity))
    if after == 0:
        return matrix[:, 0]
    share = (sparsity - points[after - 1]) / (points[after] - points[after - 1])
    return np.asarray((1 - share) * matrix[:, after - 1] + share * matrix[:, after])
