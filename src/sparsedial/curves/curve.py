"""Curves: scores of one model at one site, over sparsity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, cast

import numpy as np

from sparsedial.curves.retention import compute_retention
from sparsedial.errors import SpecError


@dataclass(frozen=True, repr=False)
class Curve:
    """The measured points of one model at one site. The dense and sparse models are scored on the same examples.

    Attributes:
        sparsity: Sparsity of the points, shape [K], ascending.
        score: Scores of the points, shape [K].
        dense: The dense score.
        p: Rule parameter of each point, shape [K]. NaN if unknown.
        examples: For each task, the scores of its N examples, shape [N, 1 + K]: dense first, then the points. NaN if an
            example was not scored at a point. In an average over tasks, the scores are multiplied by the weight of the
            task. Empty if the per-example scores are not known. The curve then has no confidence interval.
        higher_is_better: Direction of the metric. It decides how retention is defined (`compute_retention`).
        is_unit_scale: True if every score lies between 0 and 1, as accuracies do.
        members: The curves whose retentions are averaged (`average_retentions_at_each_p`). ``examples`` then holds
            their scores without weights. Empty for every other curve.
        dense_at_points: The dense score on the examples of each point, shape [K]. None if every point was scored on all
            examples, so that it is ``dense`` everywhere.
    """

    sparsity: np.ndarray
    score: np.ndarray
    dense: float
    p: np.ndarray
    examples: tuple[np.ndarray, ...] = ()
    higher_is_better: bool = True
    is_unit_scale: bool = True
    members: tuple[Curve, ...] = ()
    dense_at_points: np.ndarray | None = None

    def __repr__(self) -> str:
        """Return the number of points, their range of sparsity and the dense score as text."""
        count = len(self.sparsity)
        examples = sum(map(len, self.examples))
        return (
            f"Curve({count} points, sparsity {self.sparsity[0]:.1%} to {self.sparsity[-1]:.1%}, "
            f"retention {self.retention[0]:.1%} to {self.retention[-1]:.1%}, dense score {self.dense:.4g}, "
            f"{examples or 'unknown number of'} examples)"
        )

    @property
    def reference(self) -> np.ndarray:
        """The dense score on the examples of each point, shape [K]."""
        if self.dense_at_points is None:
            return np.full(len(self.sparsity), self.dense)
        return self.dense_at_points

    @property
    def retention(self) -> np.ndarray:
        """Share of the dense score that each point keeps (`compute_retention`), shape [K]."""
        return compute_retention(self.reference, self.score, self.higher_is_better)

    def select_points(self, index: np.ndarray) -> Curve:
        """Return a curve with some of the points.

        Args:
            index: Index of each point of the new curve, in its order, integer, shape [L].

        Returns:
            The new curve. Its members have the same points.
        """
        columns = np.concatenate([[0], 1 + index])  # the dense scores stay first
        return replace(
            self,
            sparsity=self.sparsity[index],
            score=self.score[index],
            p=self.p[index],
            examples=tuple(matrix[:, columns] for matrix in self.examples),
            members=tuple(member.select_points(index) for member in self.members),
            dense_at_points=None if self.dense_at_points is None else self.dense_at_points[index],
        )


@dataclass(frozen=True)
class _Point:
    sparsity: float
    scores: np.ndarray  # one score per example, shape [N], or one overall score, shape [1]
    p: float


def make_curve(
    points: Sequence[object],
    dense: float | Sequence[float] | np.ndarray | None = None,
    higher_is_better: bool = True,
) -> Curve:
    """Make a curve from points in any order.

    Args:
        points: Tuples ``(sparsity, score)`` or ``(sparsity, score, p)``. The score is a number, or the scores of the
            examples, shape [N]. A `SpecError` is raised for anything else, and for a sparsity outside [0, 1].
        dense: The dense score, or one dense score per example. Defaults to the scores of the point at sparsity 0.
        higher_is_better: Direction of the metric. Defaults to True.

    Returns:
        The curve of the points above sparsity 0.

    Raises:
        SpecError: There are no points above sparsity 0, the points differ in their number of examples, a score is
            negative or not finite, or the dense score is missing or not positive.
    """
    if not isinstance(points, Iterable) or isinstance(points, str):
        raise SpecError(f"critical_sparsity: points={points!r}: expected a list of (sparsity, score) or a Curve")
    parsed = [_parse_point(point) for point in points]
    baseline = _dense_scores(parsed, dense)
    sparse = sorted((point for point in parsed if point.sparsity > 0.0), key=lambda point: point.sparsity)
    if not sparse:
        raise SpecError("critical_sparsity: no points above sparsity 0, expected at least one")
    columns = [baseline, *(point.scores for point in sparse)]
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise SpecError(
            f"critical_sparsity: the points have different numbers of scores ({sorted(lengths)}); "
            "score the dense and the sparse models on the same examples"
        )
    if lengths == {0}:
        raise SpecError("critical_sparsity: the points have no scores; expected the score of at least one example")
    matrix = np.stack(columns, 1)
    if not np.isfinite(matrix).all():
        raise SpecError("critical_sparsity: a score is NaN or infinite; expected finite scores")
    sparsity = np.array([point.sparsity for point in sparse])
    p = np.array([point.p for point in sparse])
    return curve_from_scores(sparsity, p, matrix, higher_is_better)


def curve_from_scores(sparsity: np.ndarray, p: np.ndarray, matrix: np.ndarray, higher_is_better: bool) -> Curve:
    """Return the curve of one task from the scores of its examples.

    Args:
        sparsity: Sparsity of the points, shape [K], ascending.
        p: Rule parameter of each point, shape [K]. NaN if unknown.
        matrix: Scores of the N examples, shape [N, 1 + K]: dense first, then the points. NaN if an example was not
            scored at a point. At least one example was scored at each point.
        higher_is_better: Direction of the metric.

    Returns:
        The curve. It has no per-example scores if there is only one example.

    Raises:
        SpecError: A score is negative, or a dense score is not positive.
    """
    is_scored = np.isfinite(matrix[:, 1:])
    counts = is_scored.sum(0)
    score = np.where(is_scored, matrix[:, 1:], 0.0).sum(0) / counts
    dense = float(matrix[:, 0].mean())
    dense_at_points = None
    if not is_scored.all():
        dense_at_points = np.where(is_scored, matrix[:, :1], 0.0).sum(0) / counts
    lowest = float(min(score.min(), dense))
    if lowest < 0:
        raise SpecError(f"critical_sparsity: {describe_negative_score(lowest, higher_is_better)}")
    lowest_dense = dense if dense_at_points is None else float(dense_at_points.min())
    if lowest_dense <= 0:
        raise SpecError(f"critical_sparsity: the dense score is {lowest_dense:g}; expected a dense score above 0")
    return Curve(
        sparsity=sparsity,
        score=score,
        dense=dense,
        p=p,
        examples=(matrix,) if len(matrix) > 1 else (),
        higher_is_better=higher_is_better,
        is_unit_scale=bool((np.nanmin(matrix) >= 0) and (np.nanmax(matrix) <= 1)),
        dense_at_points=dense_at_points,
    )


def describe_negative_score(score: float, higher_is_better: bool = True) -> str:
    """Explain why a negative score has no retention.

    Args:
        score: The score.
        higher_is_better: Direction of the metric. Defaults to True.

    Returns:
        What was seen, what was expected and what to do.
    """
    example = "exp(log-likelihood)" if higher_is_better else "the negative log-likelihood"
    return (
        f"a score is {score:g}; expected scores of at least 0, because retention is a ratio of scores. Use a metric "
        f"that cannot be negative, for example {example} in place of a log-likelihood"
    )


def average_at_each_p(curves: Sequence[Curve], weights: Sequence[float] | None = None) -> Curve:
    """Average the sparsity and the score of several tasks at each value of p (arXiv 2509.00454).

    Args:
        curves: The curve of each task. All must be measured at the same values of p.
        weights: The weight of each task; equal weights by default.

    Returns:
        The average curve, in ascending order of its sparsity.

    Raises:
        SpecError: There are no curves, they are measured at different values of p, higher is better for some of them
            and lower for others, or there is not one weight of at least 0 for each task, of which one is above 0.

    Example:
        >>> a = make_curve([(0.2, 1.0, 0.9), (0.4, 0.5, 0.8)], dense=1.0)
        >>> b = make_curve([(0.4, 0.5, 0.9), (0.6, 0.5, 0.8)], dense=0.5)
        >>> mean = average_at_each_p([a, b])
        >>> mean.sparsity.round(3).tolist(), mean.score.tolist(), mean.dense
        ([0.3, 0.5], [0.75, 0.5], 0.75)
    """
    ordered = sort_by_p(curves)
    directions = {curve.higher_is_better for curve in curves}
    if len(directions) != 1:
        raise SpecError(
            "average_at_each_p: higher is better for some tasks and lower for others; average their retentions with "
            "average_retentions_at_each_p"
        )
    shares = np.ones(len(curves)) if weights is None else _read_weights(weights, len(curves))
    shares = shares / shares.sum()
    examples: list[np.ndarray] = []
    if all(curve.examples for curve in curves):
        for share, curve in zip(shares, ordered, strict=True):
            examples += [share * matrix for matrix in curve.examples]
    average = Curve(
        sparsity=shares @ [curve.sparsity for curve in ordered],
        score=shares @ [curve.score for curve in ordered],
        dense=float(shares @ [curve.dense for curve in curves]),
        p=ordered[0].p,
        examples=tuple(examples),
        higher_is_better=directions.pop(),
        is_unit_scale=all(map(attrgetter("is_unit_scale"), curves)),
        dense_at_points=_average_reference(shares, ordered),
    )
    return sort_by_sparsity(average)


def _average_reference(shares: np.ndarray, curves: Sequence[Curve]) -> np.ndarray | None:
    """Return the average of ``dense_at_points``, or None if every point of every curve was scored on all examples."""
    if all(curve.dense_at_points is None for curve in curves):
        return None
    return np.asarray(shares @ [curve.reference for curve in curves])


def sort_by_p(curves: Sequence[Curve]) -> list[Curve]:
    """Sort the points of curves by p, so that they can be averaged point by point.

    Args:
        curves: The curve of each task.

    Returns:
        The curves, with their points in ascending order of p.

    Raises:
        SpecError: There are no curves, or they are measured at different values of p.
    """
    if not curves:
        raise SpecError("average over tasks: no curves; expected at least one")
    ordered = [curve.select_points(np.argsort(curve.p, kind="stable")) for curve in curves]
    for curve in ordered:
        if not np.array_equal(curve.p, ordered[0].p):
            if np.isnan(curve.p).any() or np.isnan(ordered[0].p).any():
                raise SpecError(
                    "average over tasks: a point has no p; expected (sparsity, score, p) for every point, because "
                    "tasks are averaged at equal p"
                )
            raise SpecError(
                "average over tasks: the tasks were measured at different p; expected the same p for all tasks"
            )
    return ordered


def sort_by_sparsity(curve: Curve) -> Curve:
    """Return a curve with its points in ascending order of sparsity.

    Args:
        curve: The curve.
    """
    return curve.select_points(np.argsort(curve.sparsity, kind="stable"))


def _dense_scores(points: Sequence[_Point], dense: float | Sequence[float] | np.ndarray | None) -> np.ndarray:
    """Return the dense scores, shape [N]: ``dense`` if it is given, else the scores of the point at sparsity 0."""
    if dense is not None:
        return _read_dense(dense)
    for point in points:
        if point.sparsity == 0.0:
            return point.scores
    raise SpecError("critical_sparsity: no dense score; add a point at sparsity 0 or pass dense=")


def _read_weights(weights: Sequence[float], count: int) -> np.ndarray:
    """Convert the weights of the tasks to an array, shape [tasks]."""
    try:
        shares = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        shares = np.empty(0)
    if shares.shape != (count,) or not np.isfinite(shares).all() or shares.min() < 0 or shares.sum() == 0:
        raise SpecError(
            f"average over tasks: weights={weights!r}: expected {count} numbers of at least 0, one per task, of which "
            "one is above 0"
        )
    return shares


def _read_dense(dense: float | Sequence[float] | np.ndarray) -> np.ndarray:
    """Convert the dense score, or the dense scores, to an array of shape [N]."""
    try:
        scores = np.atleast_1d(np.asarray(dense, dtype=np.float64))
    except (TypeError, ValueError):
        scores = np.empty((0, 0))
    if scores.ndim != 1:
        raise SpecError(
            f"critical_sparsity: dense={dense!r}: expected the dense score, or a list of one dense score per example"
        )
    return scores


def _parse_point(point: object) -> _Point:
    """Convert a tuple to a point and check its values."""
    try:
        sparsity, score, *rest = cast("tuple[Any, ...]", point)
        [p] = rest or [None]
        parsed = _Point(
            sparsity=float(sparsity),
            scores=np.atleast_1d(np.asarray(score, dtype=np.float64)),
            p=math.nan if p is None else float(p),
        )
    except (TypeError, ValueError):
        raise SpecError(
            f"critical_sparsity: point {point!r}: expected (sparsity, score) or (sparsity, score, p)"
        ) from None
    if not 0.0 <= parsed.sparsity <= 1.0 or parsed.scores.ndim != 1:
        raise SpecError(
            f"critical_sparsity: point {point!r}: expected a sparsity in [0, 1] and one score or a list of scores"
        )
    return parsed
