"""Averages of curves over tasks: over the groups of lm-eval, and over all tasks (docs/retention.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparsedial.analysis.labels import AVERAGE_OF_RETENTIONS, is_average
from sparsedial.analysis.retention_curves import CurveLabel, CurveSetting, LabelledCurve
from sparsedial.curves.chance import is_at_chance
from sparsedial.curves.curve import Curve, average_at_each_p
from sparsedial.curves.task_average import average_tasks, have_common_scale
from sparsedial.study.pooled_trials import PooledTrial
from sparsedial.tasks.base import TaskGroup
from sparsedial.tasks.registry import is_data_free
from sparsedial.tasks.self_prediction import SelfPrediction
from sparsedial.tasks.task_names import AVERAGE


@dataclass(frozen=True)
class Averages:
    """Averages of measured curves over tasks.

    Attributes:
        task_groups: One curve per model, site and lm-eval group (mmlu, for example).
        all_tasks: One curve per model and site: the average over tasks. A group counts as one task.
    """

    task_groups: tuple[LabelledCurve, ...]
    all_tasks: tuple[LabelledCurve, ...]

    def find_task_group(self, curve: LabelledCurve) -> str | None:
        """Return the name of the task group whose average contains a task's curve, or None.

        Args:
            curve: The curve of one task.
        """
        for average in self.task_groups:
            if average.group == curve.group and curve.label.task in average.averaged_tasks:
                return average.label.task
        return None

    def has_average(self, group: CurveSetting) -> bool:
        """Return True if the tasks of a model and site have an average.

        Args:
            group: Model, site, rule and layers.
        """
        return any(average.group == group for average in self.all_tasks)

    def is_headline(self, curve: LabelledCurve) -> bool:
        """Return True if a curve is one of those to show first.

        These are the averages over all tasks, self-prediction, and all curves of a model and site without an average.

        Args:
            curve: The curve of one task, of a task group, or of an average.
        """
        if is_average(curve.label.task) or curve.label.task == SelfPrediction.name:
            return True
        return not self.has_average(curve.group)


def average_curves(curves: Sequence[LabelledCurve]) -> Averages:
    """Average curves over task groups, and then over all tasks.

    Args:
        curves: The curve of every model, site and task.

    Returns:
        The averages.
    """
    task_groups = _average_task_groups(curves)
    return Averages(tuple(task_groups), tuple(_average_all_tasks(curves, task_groups)))


def _average_task_groups(curves: Sequence[LabelledCurve]) -> list[LabelledCurve]:
    """Average each lm-eval group as lm-eval does: with equal weights, or weighted by the number of examples.

    Every task of the group is a member, whether it was requested by its own name or through the group. If some members
    have no curve, the name of the average states how many are included.
    """
    task_groups: dict[str, TaskGroup] = {}
    for curve in curves:
        task_group = curve.dense.task.group
        if task_group is not None:
            task_groups.setdefault(task_group.name, task_group)
    averages = []
    for task_group in task_groups.values():
        members_by_group: dict[CurveSetting, list[LabelledCurve]] = defaultdict(list)
        for curve in curves:
            if curve.dense.task.name in task_group.members:
                members_by_group[curve.group].append(curve)
        for members in members_by_group.values():
            average = _average_task_group(task_group, members)
            if average is not None:
                averages.append(average)
    return averages


def _average_task_group(task_group: TaskGroup, members: Sequence[LabelledCurve]) -> LabelledCurve | None:
    """Average one task group.

    Returns None if fewer than two of its tasks have curves, or if they share neither a value of p nor a direction.
    """
    curves = _one_per_task(members)
    if len(curves) < 2 or len({curve.curve.higher_is_better for curve in curves}) > 1:
        return None
    expected = len(task_group.members)
    missing = "" if len(curves) == expected else f" of {expected}"
    name = f"{task_group.name} ({len(curves)}{missing} tasks)"
    matched = _match_points(curves)
    if not matched:
        return None
    weights = np.ones(len(curves))
    if task_group.by_size:
        weights = np.array([curve.dense.result.examples for curve in curves], dtype=np.float64)
    average = average_at_each_p(matched, list(weights))
    chance = float(weights @ [curve.chance for curve in curves] / weights.sum())
    return LabelledCurve(
        label=CurveLabel(curves[0].group, name, f"mean of {len(curves)}"),
        curve=average,
        dense=curves[0].dense,
        trials=_all_trials(curves),
        averaged_tasks=_task_names(members),
        chance=chance,
        is_at_chance=_is_average_at_chance(average, chance),
    )


def _is_average_at_chance(average: Curve, chance: float) -> bool:
    if not average.higher_is_better or not average.examples:
        return False
    return is_at_chance([matrix[:, 0] for matrix in average.examples], chance)


def _average_all_tasks(curves: Sequence[LabelledCurve], task_groups: Sequence[LabelledCurve]) -> list[LabelledCurve]:
    """Average all tasks of each model and site, at the values of p at which all of them were measured.

    Tasks without data, such as self-prediction, are left out, and so are tasks whose dense score is at chance. If a
    task was measured with several sets of options, the curve with the most examples is used. If the averages cover
    different tasks, or if a task at chance was left out, the name of each average lists its tasks.
    """
    in_task_group: set[tuple[CurveSetting, str]] = set()
    for average in task_groups:
        for task in average.averaged_tasks:
            in_task_group.add((average.group, task))
    tasks_by_group: dict[CurveSetting, list[LabelledCurve]] = defaultdict(list)
    for curve in (*curves, *task_groups):
        is_member = not curve.averaged_tasks and (curve.group, curve.label.task) in in_task_group
        if not is_member and not is_data_free(curve.dense.task.name):
            tasks_by_group[curve.group].append(curve)
    averages = []
    are_named_after_tasks = False
    for tasks in tasks_by_group.values():
        distinct = _one_per_task(tasks)
        above_chance = [curve for curve in distinct if not curve.is_at_chance]
        mean = _average_distinct_tasks(above_chance)
        if mean is not None:
            averages.append(mean)
            are_named_after_tasks = are_named_after_tasks or len(above_chance) < len(distinct)
    if are_named_after_tasks or len({average.averaged_tasks for average in averages}) > 1:
        return list(map(_name_after_tasks, averages))
    return averages


def _average_distinct_tasks(curves: Sequence[LabelledCurve]) -> LabelledCurve | None:
    """Average tasks. None if there are fewer than two, or if they have no value of p in common."""
    matched = _match_points(curves) if len(curves) > 1 else []
    if not matched:
        return None
    name = AVERAGE
    metric = f"mean of {len(curves)}"
    if not have_common_scale(matched):
        name = AVERAGE_OF_RETENTIONS
        metric += " retentions"
    return LabelledCurve(
        label=CurveLabel(curves[0].group, name, metric),
        curve=average_tasks(matched),
        dense=curves[0].dense,
        trials=_all_trials(curves),
        averaged_tasks=_task_names(curves),
    )


def _name_after_tasks(average: LabelledCurve) -> LabelledCurve:
    name = f"{average.label.task} of {', '.join(average.averaged_tasks)}"
    return replace(average, label=replace(average.label, task=name))


def _one_per_task(curves: Sequence[LabelledCurve]) -> list[LabelledCurve]:
    """Return the curve with the most examples of each task, sorted by task so that resamples of models are paired."""
    by_task: dict[str, LabelledCurve] = {}
    for curve in curves:
        task = curve.label.task if curve.averaged_tasks else curve.dense.task.name
        if task not in by_task or curve.examples > by_task[task].examples:
            by_task[task] = curve
    return [curve for _, curve in sorted(by_task.items())]


def _task_names(curves: Sequence[LabelledCurve]) -> tuple[str, ...]:
    return tuple(curve.label.task for curve in curves)


def _all_trials(curves: Sequence[LabelledCurve]) -> tuple[PooledTrial, ...]:
    trials: list[PooledTrial] = []
    for curve in curves:
        trials += curve.trials
    return tuple(trials)


def _match_points(curves: Sequence[LabelledCurve]) -> list[Curve]:
    """Return the points of each curve at the values of p that all have in common. Empty if there are none."""
    common = set(curves[0].curve.p.tolist())
    for curve in curves[1:]:
        common &= set(curve.curve.p.tolist())
    if not common:
        return []
    return [_points_at(curve.curve, sorted(common)) for curve in curves]


def _points_at(curve: Curve, values: Sequence[float]) -> Curve:
    """Return the curve's points at these values of p, in this order."""
    by_p = np.argsort(curve.p)
    return curve.select_points(by_p[np.searchsorted(curve.p, values, sorter=by_p)])
