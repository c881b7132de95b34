"""The average of curves over tasks, in one of two definitions (docs/retention.md).

- The average of the paper (`average_at_each_p`) averages scores. It needs scores on one scale.
- The average of retentions (`average_retentions_at_each_p`) gives every task the same weight on any scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsedial.curves.curve import Curve, average_at_each_p, sort_by_p, sort_by_sparsity


def average_tasks(curves: Sequence[Curve]) -> Curve:
    """Average the curves of several tasks at each value of p.

    Args:
        curves: The curve of each task. All must be measured at the same values of p.

    Returns:
        The average of the paper if the tasks share a scale (`have_common_scale`), else the average of retentions.

    Raises:
        SpecError: There are no curves, or they are measured at different values of p.
    """
    if have_common_scale(curves):
        return average_at_each_p(curves)
    return average_retentions_at_each_p(curves)


def have_common_scale(curves: Sequence[Curve]) -> bool:
    """Return True if the scores of all tasks lie between 0 and 1, and higher is better for all of them.

    Args:
        curves: The curve of each task.
    """
    return all(map(_has_unit_scale, curves))


def _has_unit_scale(curve: Curve) -> bool:
    return curve.higher_is_better and curve.is_unit_scale


def average_retentions_at_each_p(curves: Sequence[Curve]) -> Curve:
    """Average the sparsity and the retention of several tasks at each value of p, with equal weights.

    Args:
        curves: The curve of each task. All must be measured at the same values of p.

    Returns:
        The average curve, in ascending order of its sparsity. Its scores are mean retentions, and its dense score is 1.

    Raises:
        SpecError: There are no curves, or they are measured at different values of p.

    Example:
        >>> from sparsedial.curves import make_curve
        >>> accuracy = make_curve([(0.2, 0.45, 0.9)], dense=0.5)
        >>> percentage = make_curve([(0.4, 100.0, 0.9)], dense=100.0)
        >>> mean = average_retentions_at_each_p([accuracy, percentage])
        >>> mean.sparsity.round(3).tolist(), mean.retention.round(3).tolist()
        ([0.3], [0.95])
    """
    members = sort_by_p(curves)
    sparsities: list[np.ndarray] = []
    retentions: list[np.ndarray] = []
    examples: list[np.ndarray] = []
    for member in members:
        sparsities.append(member.sparsity)
        retentions.append(member.retention)
        examples += member.examples
    if not all(member.examples for member in members):
        examples = []
    average = Curve(
        sparsity=np.mean(sparsities, axis=0),
        score=np.mean(retentions, axis=0),
        dense=1.0,
        p=members[0].p,
        examples=tuple(examples),
        is_unit_scale=False,
        members=tuple(members),
    )
    return sort_by_sparsity(average)
