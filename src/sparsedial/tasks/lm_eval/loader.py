"""Loading of lm-eval tasks by name. All problems that can be detected without a model are reported here."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparsedial.errors import TaskDataError, TaskError
from sparsedial.tasks.base import TaskGroup
from sparsedial.tasks.lm_eval.aggregations import classify_aggregation
from sparsedial.tasks.lm_eval.judging import filter_names
from sparsedial.tasks.lm_eval.metric_choice import MetricDefinition, choose_metric
from sparsedial.tasks.lm_eval.metrics import Metric
from sparsedial.tasks.lm_eval.options import LmEvalSettings
from sparsedial.tasks.lm_eval.task import LmEvalTask
from sparsedial.tasks.lm_eval.task_index import (
    GroupMember,
    find_task_manager,
    list_members,
    load_tasks_and_groups,
)

TASK_SETS = {
    "paper": [
        "arc_easy",
        "arc_challenge",
        "boolq",
        "hellaswag",
        "winogrande",
        "piqa",
        "sciq",
        "lambada_standard",
        "triviaqa",
    ],
    "paper-instruct": ["gsm8k", "ifeval", "mmlu_redux"],
}
"""Names of sets of tasks: the nine tasks of the paper, and its three tasks for instruction-tuned models."""

_LM_EVAL_NAMES = {"mmlu_redux": "mmlu_redux_generative"}  # names in the paper that differ from lm-eval's names
_DATA_HINT = (
    "lm-eval downloads data if it can connect to the model hub. Without a connection, copy the task's YAML, point "
    "dataset_path and data_files at a local file, and pass its folder as --include-path."
)


@dataclass(frozen=True)
class TaskSelection:
    """Names of tasks that share their settings.

    Attributes:
        names: Names of tasks, groups, tags or YAML files, patterns such as ``mmlu_*``, or keys of `TASK_SETS`.
        settings: How the tasks are loaded and run.
    """

    names: Sequence[str]
    settings: LmEvalSettings = field(default_factory=LmEvalSettings)

    def lm_eval_names(self) -> list[str]:
        """Return the names that lm-eval uses, with each set of tasks replaced by its members."""
        names: list[str] = []
        for name in self.names:
            names += TASK_SETS.get(name, [name])
        return list(map(to_lm_eval_name, names))

    def metric_for(self, *names: str) -> str | None:
        """Return the metric that was requested for the first of the names that has one, or None.

        Args:
            *names: Names to look up in ``settings.metrics``, by priority: for example that of a task, then that of the
                group by which it was requested.
        """
        for name in names:
            if name in self.settings.metrics:
                return self.settings.metrics[name]
        return None


def to_lm_eval_name(name: str) -> str:
    """Return lm-eval's name of a task.

    Args:
        name: Name of a task in the paper or in lm-eval. A name that is the same in both, or unknown, is returned as is.

    Example:
        >>> to_lm_eval_name("mmlu_redux"), to_lm_eval_name("piqa")
        ('mmlu_redux_generative', 'piqa')
    """
    return _LM_EVAL_NAMES.get(name, name)


def load_lm_eval_tasks(selections: Sequence[TaskSelection], builtin_names: Sequence[str] = ()) -> list[LmEvalTask]:
    """Load tasks with their data, but without a model.

    Args:
        selections: Names of tasks and their settings.
        builtin_names: Names of tasks outside lm-eval, which are suggested for similar names that are unknown.

    Returns:
        The tasks, in the order of their names. A task that is named twice is returned once. If it is in several groups
        with different configurations, the later ones have the name of the group before their own.

    Raises:
        TaskDataError: The data of some tasks cannot be loaded, and nothing else is wrong.
        TaskError: lm-eval is not installed, a task or metric is unknown, a task has too few examples, or a task is
            named twice with different settings. The message has one line for each problem.
    """
    loader = _Loader(selections, [*builtin_names, *TASK_SETS])
    for selection in selections:
        loader.load(selection)
    if not loader.problems:
        loader.check_metric_names()
    if loader.problems:
        message = "\n".join(dict.fromkeys(loader.problems))
        if loader.without_data:
            message += f"\n{_DATA_HINT}"
        if loader.without_data == len(loader.problems):
            raise TaskDataError(message)
        raise TaskError(message)
    for task in loader.tasks.values():
        if task.unread_code:
            locations = ", ".join(task.unread_code)
            warnings.warn(
                f"task {task.name!r} loads code that is not part of the key of its trials ({locations}): if you edit "
                "that code, use a new directory with --out",
                stacklevel=2,
            )
    return list(loader.tasks.values())


class _Loader:
    """Collector of the tasks and problems of several selections."""

    def __init__(self, selections: Sequence[TaskSelection], other_names: Sequence[str]) -> None:
        self.selections = selections
        self.other_names = other_names
        self.tasks: dict[str, LmEvalTask] = {}
        self.problems: list[str] = []
        self.without_data = 0  # how many of the problems are data that cannot be loaded
        self._group_names: set[str] = set()
        if not any(selection.lm_eval_names() for selection in selections):
            self.problems.append("no task is named: expected at least one")

    def load(self, selection: TaskSelection) -> None:
        """Add the tasks of one selection."""
        names = selection.lm_eval_names()
        if not names:
            return
        include_path = selection.settings.include_path
        manager = find_task_manager(self._names_with_include_path(include_path), include_path)
        for name in dict.fromkeys(_expand_patterns(names, manager)):
            try:
                loaded = load_tasks_and_groups(name, manager, self.other_names)
            except TaskError as error:
                self.problems.append(str(error))
                self.without_data += isinstance(error, TaskDataError)
                continue
            self._group_names.update(loaded["groups"])
            self._add_all(selection, name, list_members(loaded), loaded["groups"])

    def check_metric_names(self) -> None:
        """Add a problem for each metric that is requested for a task that is not loaded."""
        known = {*self.tasks, *self._group_names}
        for selection in self.selections:
            known.update(selection.lm_eval_names())
        for selection in self.selections:
            for name in selection.settings.metrics:
                if to_lm_eval_name(name) not in known:
                    self.problems.append(f"a metric is given for {name!r}, which is not among the tasks")

    def _names_with_include_path(self, include_path: object) -> tuple[str, ...]:
        """Return the names in all selections with this ``include_path``, which share one index of tasks."""
        names: list[str] = []
        for selection in self.selections:
            if selection.settings.include_path == include_path:
                names += selection.lm_eval_names()
        return tuple(names)

    def _add_all(
        self, selection: TaskSelection, name: str, members: Sequence[GroupMember], groups: Mapping[str, Any]
    ) -> None:
        """Add the tasks that one name stands for.

        Args:
            selection: Selection that contains the name.
            name: Name by which the tasks were requested.
            members: The tasks, and the groups that contain them.
            groups: lm-eval's groups below ``name``, by name.
        """
        names: dict[int, str] = {}  # by the ID of lm-eval's task
        added: list[LmEvalTask] = []
        for member in members:
            try:
                task = _create_task(selection, name, member, groups)
                task = replace(task, name=self._unique_name(task, member))
            except TaskError as error:
                self.problems.append(str(error))
                continue
            self.tasks.setdefault(task.name, task)
            names[id(member.lm_eval_task)] = task.name
            added.append(task)
        for task in added:
            group = task.group
            if group is not None and group.by_size is not None:
                group_tasks = groups[group.name].get_all_tasks()
                group = replace(group, members=tuple(sorted({names.get(id(other), "") for other in group_tasks})))
            if group is not None and (self.tasks[task.name].group is None or group.by_size is not None):
                self.tasks[task.name] = replace(self.tasks[task.name], group=group)

    def _unique_name(self, task: LmEvalTask, member: GroupMember) -> str:
        """Return a name under which no other task is stored.

        A task that is in several groups keeps its name if it is the same in all of them and only one of them averages
        it. Otherwise, the name of the group is put before it.
        """
        names = [task.name]
        if member.group is not None:
            names.append(f"{member.group}::{task.name}")
        for name in names:
            previous = self.tasks.get(name)
            if previous is None:
                return name
            if previous.settings != task.settings:
                raise TaskError(f"task {name!r} is named twice with different options: name it once")
            if previous.is_same_evaluation(task) and _can_share_average(previous.group, task.group):
                return name
        raise TaskError(
            f"task {task.name!r} is named twice with different configurations, the second time "
            f"{_describe_group(member.group)}: name it before the groups, or define it under a name of its own"
        )


def _create_task(selection: TaskSelection, name: str, member: GroupMember, groups: Mapping[str, Any]) -> LmEvalTask:
    """Return one task. Its group does not list its members yet.

    Args:
        selection: Selection that contains the name.
        name: Name by which the task was requested.
        member: The task, and the group that contains it.
        groups: lm-eval's groups below ``name``, by name.

    Raises:
        TaskError: The task cannot be run, has too few examples, or has no suitable metric.
    """
    settings = selection.settings
    lm_eval_task = member.lm_eval_task
    _check_task(member.name, lm_eval_task, settings)
    shots = _set_num_fewshot(lm_eval_task, settings.num_fewshot)
    requested = selection.metric_for(f"{member.group}::{member.name}", member.name, member.group or name, name)
    metric = _choose_metric(member.name, lm_eval_task, requested)
    group = _find_group(name, member, metric, groups)
    return LmEvalTask(member.name, group, metric, shots, settings, lm_eval_task)


def _describe_group(name: str | None) -> str:
    return "by itself" if name is None else f"in group {name!r}"


def _can_share_average(first: TaskGroup | None, second: TaskGroup | None) -> bool:
    """Return True if one task can represent the members of both groups, because at most one of them has an average."""
    averages = {group.name for group in (first, second) if group is not None and group.by_size is not None}
    return len(averages) <= 1


def _expand_patterns(names: Iterable[str], manager: Any) -> Iterator[str]:
    for name in names:
        matches = manager.match_tasks([name]) if "*" in name else []
        yield from matches or [name]


def _find_group(name: str, member: GroupMember, metric: Metric, groups: Mapping[str, Any]) -> TaskGroup | None:
    """Return the largest group over which lm-eval averages the metric of a task, else the requested group.

    Args:
        name: Name by which the task was requested.
        member: The task.
        metric: Metric that defines the score of the task.
        groups: lm-eval's groups below ``name``, by name.

    Returns:
        The group without its members, or None if the task was requested by its own name.
    """
    sizes: dict[str, int] = {}
    for group_name, group in groups.items():
        tasks = group.get_all_tasks()
        if any(task is member.lm_eval_task for task in tasks):
            sizes[group_name] = len(tasks)
    for group_name in sorted(sizes, key=lambda group_name: -sizes[group_name]):
        for aggregate in groups[group_name].aggregate_metric_list or []:
            if aggregate.metric == metric.name:
                return TaskGroup(group_name, aggregate.weight_by_size)
    if name == member.name:
        return None
    return TaskGroup(name)


def _check_task(name: str, lm_eval_task: Any, settings: LmEvalSettings) -> None:
    """Raise an error if a task cannot be run, or has too few examples."""
    if getattr(lm_eval_task, "MULTIMODAL", False):
        raise TaskError(f"task {name!r} needs images or sound: only text is supported")
    if getattr(lm_eval_task, "UNSAFE_CODE", False) and not settings.confirm_run_unsafe_code:
        raise TaskError(
            f"task {name!r} runs code that the model has written. To allow this, on a machine where such code can do "
            "no harm, set the task's option confirm_run_unsafe_code: true in a study file"
        )
    examples = len(lm_eval_task.eval_docs)
    if settings.limit is not None and examples < settings.limit:
        raise TaskError(
            f"task {name!r} has {examples} examples, fewer than the limit of {settings.limit}: lower --limit"
        )


def _set_num_fewshot(lm_eval_task: Any, num_fewshot: int | None) -> int:
    """Set and return the number of few-shot examples. As in lm-eval, a task that fixes 0 keeps it."""
    shots = lm_eval_task.get_config("num_fewshot")
    if num_fewshot is not None and shots != 0:
        shots = num_fewshot
    lm_eval_task.set_config("num_fewshot", shots or 0)
    return int(shots or 0)


def _choose_metric(name: str, lm_eval_task: Any, requested: str | None) -> Metric:
    directions = lm_eval_task.higher_is_better()
    definitions = {}
    for metric, aggregate in lm_eval_task.aggregation().items():
        definitions[metric] = MetricDefinition(
            aggregation=classify_aggregation(aggregate),
            higher_is_better=directions.get(metric),
            aggregated_by=getattr(aggregate, "__name__", type(aggregate).__name__),
        )
    return choose_metric(name, definitions, filter_names(lm_eval_task), requested)
