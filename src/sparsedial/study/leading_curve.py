"""The curve that the adaptive search follows: the average over tasks of the report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sparsedial.curves.curve import Curve
from sparsedial.curves.task_average import average_tasks
from sparsedial.errors import SparsedialError
from sparsedial.study.curve_from_trials import measured_curve
from sparsedial.study.likelihood_curve import perplexity_criterion_curve
from sparsedial.study.pooled_trials import PooledTrial, SampleReader
from sparsedial.study.score_scale import has_score_at_chance
from sparsedial.tasks.registry import is_data_free


@dataclass(frozen=True)
class TaskTrials:
    """The trials of one task at one site.

    Attributes:
        dense: The dense trial.
        sparse: The sparse trials.
    """

    dense: PooledTrial
    sparse: tuple[PooledTrial, ...]


def select_leading_tasks(source: SampleReader, tasks: Sequence[TaskTrials]) -> list[TaskTrials]:
    """Return the tasks that decide where to measure next.

    Tasks without data are left out if there are others, and so are tasks whose dense score is at chance.

    Args:
        source: Source of the per-example scores.
        tasks: The trials of each task.
    """
    leading = [task for task in tasks if not is_data_free(task.dense.task.name)] or list(tasks)
    return [task for task in leading if not _is_at_chance(source, task)] or leading


def leading_curve(source: SampleReader, tasks: Sequence[TaskTrials]) -> Curve | None:
    """Return the average over the tasks that decide where to measure next.

    Args:
        source: Source of the per-example scores.
        tasks: Trials from `select_leading_tasks`, at the same values of p.

    Returns:
        The average over tasks. None if no task has scores that can be compared.
    """
    curves = []
    for task in tasks:
        with suppress(SparsedialError):  # the report states why such a curve is left out
            curves.append(measured_curve(source, task.dense, task.sparse))
    if not curves:
        return None
    return average_tasks(curves)


def leading_perplexity_curve(source: SampleReader, tasks: Sequence[TaskTrials]) -> Curve | None:
    """Return the average, over the tasks that have likelihoods, of their curves of the perplexity criterion.

    Args:
        source: Source of the tables of examples.
        tasks: Trials of all tasks, at the same values of p.

    Returns:
        The average over tasks. None if no task has likelihoods.
    """
    by_task = {}
    for task in tasks:
        curve = perplexity_criterion_curve(source, task.dense, task.sparse)
        if curve is not None:
            by_task[task.dense.task.name] = curve
    leading = [curve for name, curve in by_task.items() if not is_data_free(name)] or list(by_task.values())
    return average_tasks(leading) if leading else None


def _is_at_chance(source: SampleReader, task: TaskTrials) -> bool:
    return has_score_at_chance(task.dense, task.dense.samples(source))
