"""A check of each task of a study by itself, so that one that cannot be run does not hide the state of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparsedial.errors import SparsedialError, TaskDataError
from sparsedial.study.criterion import CRITERIA, describe_criterion_problems
from sparsedial.study.phase_choice import describe_missing_phases
from sparsedial.study.spec import StudySpec
from sparsedial.tasks.base import Task
from sparsedial.tasks.example_blocks import DivisibleTask, count_first_examples
from sparsedial.tasks.lm_eval.loader import TASK_SETS
from sparsedial.tasks.registry import make_tasks, task_option_names
from sparsedial.tasks.spec import TaskSpec


@dataclass(frozen=True)
class CheckedTask:
    """A task of a study, or why it cannot be run.

    Attributes:
        spec: The task as the study names it. A set of tasks is divided into its members.
        tasks: The tasks that the name stands for. Empty if there is a problem.
        problem: Error message. None if the tasks can be run.
        lacks_data: Whether the problem is that data cannot be loaded.
    """

    spec: TaskSpec
    tasks: tuple[Task, ...] = ()
    problem: str | None = None
    lacks_data: bool = False


def count_examples(tasks: Iterable[Task], limit: int | None = None) -> int:
    """Return the number of examples that every point is measured with, without those of tasks that do not state it.

    Args:
        tasks: The tasks.
        limit: ``max_examples`` of the study, which no task that can be divided exceeds. Defaults to None.
    """
    total = 0
    for task in tasks:
        if isinstance(task, DivisibleTask):
            total += count_first_examples(task, limit)
    return total


def check_tasks(spec: StudySpec) -> list[CheckedTask]:
    """Return the tasks of a study, each with its problem if it has one.

    Args:
        spec: The study.

    Returns:
        One entry for each name, in the order of the study.
    """
    checked = []
    for task in spec.tasks:
        for name in TASK_SETS.get(task.name, [task.name]):
            member = TaskSpec(name, task.options)
            checked.append(_check_task(member, spec))
    return checked


def select_runnable(spec: StudySpec, checked: Sequence[CheckedTask]) -> StudySpec | None:
    """Return the study with those of its tasks that can be run, and the shared options that one of them has.

    Args:
        spec: The study.
        checked: Result of `check_tasks`.

    Returns:
        The study. None if no task can be run.
    """
    runnable = [entry for entry in checked if entry.problem is None]
    if not runnable:
        return None
    if len(runnable) == len(checked):
        options: Mapping[str, Any] = spec.task_options
    else:
        options = _select_options(runnable, spec.task_options)
    return replace(spec, tasks=tuple(entry.spec for entry in runnable), task_options=options)


def find_general_problem(spec: StudySpec, checked: Sequence[CheckedTask]) -> str | None:
    """Return the error message of the tasks together if each of them can be run by itself, otherwise None.

    Args:
        spec: The study.
        checked: Result of `check_tasks`.
    """
    for task in checked:
        if task.problem is not None:
            return None
    try:
        tasks = make_tasks(spec.tasks, spec.task_options)
    except SparsedialError as error:
        return str(error)
    if spec.criterion in CRITERIA:  # an unknown one is a problem of the settings
        for problem in describe_criterion_problems(spec.criterion, tasks):
            return problem
    return None


def _check_task(task: TaskSpec, spec: StudySpec) -> CheckedTask:
    try:
        tasks = tuple(make_tasks([task], _select_options([CheckedTask(task)], spec.task_options)))
    except SparsedialError as error:
        return CheckedTask(task, problem=str(error), lacks_data=isinstance(error, TaskDataError))
    dense = list(describe_missing_phases(spec.phases, tasks))
    if dense:
        return CheckedTask(task, problem="; ".join(dense))
    return CheckedTask(task, tasks)


def _select_options(checked: Sequence[CheckedTask], shared_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shared options that one of the tasks has. A metric is kept if it is given for one of them."""
    known: set[str] = set()
    names: set[str] = set()
    for entry in checked:
        known.update(task_option_names(entry.spec.name))
        names.update((entry.spec.name, *(task.name for task in entry.tasks)))
    options = {name: value for name, value in shared_options.items() if name in known}
    metrics = options.pop("metrics", None)
    if isinstance(metrics, Mapping):
        kept = {name: metric for name, metric in metrics.items() if name in names}
        if kept:
            options["metrics"] = kept
    return options
