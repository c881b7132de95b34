"""Loading of lm-eval tasks by name. All problems that can be detected without a model are reported here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsedial.errors import TaskError
from sparsedial.tasks.base import TaskGroup
from sparsedial.tasks.lm_eval.judging import filter_names
from sparsedial.tasks.lm_eval.metrics import Metric, choose_metric
from sparsedial.tasks.lm_eval.options import LmEvalSettings
from sparsedial.tasks.lm_eval.task import LmEvalTask
from sparsedial.tasks.lm_eval.task_index import DATA_UNAVAILABLE, find_task_manager, load_tasks_and_groups

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


def load_lm_eval_tasks(selections: Sequence[TaskSelection]) -> list[LmEvalTask]:
    """Load tasks with their data, but without a model.

    Args:
        selections: Names of tasks and their settings.

    Returns:
        The tasks, in the order of their names. A task that is named twice is returned once.

    Raises:
        TaskError: lm-eval is not installed, a task or metric is unknown, data is unavailable, a task has too few
            examples, or a task is named twice with different settings. The message has one line for each problem.
    """
    loader = _Loader(selections)
    for selection in selections:
        loader.load(selection)
    if not loader.problems:
        loader.check_metric_names()
    if loader.problems:
        message = "\n".join(dict.fromkeys(loader.problems))
        if DATA_UNAVAILABLE in message:
            message += f"\n{_DATA_HINT}"
        raise TaskError(message)
    return list(loader.tasks.values())


class _Loader:
    """Collector of the tasks and problems of several selections."""

    def __init__(self, selections: Sequence[TaskSelection]) -> None:
        self.selections = selections
        self.tasks: dict[str, LmEvalTask] = {}
        self.problems: list[str] = []
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
                loaded = load_tasks_and_groups(name, manager)
            except TaskError as error:
                self.problems.append(str(error))
                continue
            for member, lm_eval_task in loaded["tasks"].items():
                self._add(selection, name, member, lm_eval_task, loaded["groups"])

    def check_metric_names(self) -> None:
        """Add a problem for each metric that is requested for a task that is not loaded."""
        known = set(self.tasks)
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

    def _add(
        self, selection: TaskSelection, name: str, member: str, lm_eval_task: Any, groups: Mapping[str, Any]
    ) -> None:
        """Add one task.

        Args:
            selection: Selection that names the task.
            name: Name by which it was requested.
            member: lm-eval's name of the task.
            lm_eval_task: lm-eval's task.
            groups: lm-eval's groups below ``name``, by name.
        """
        settings = selection.settings
        try:
            _check_task(member, lm_eval_task, settings.limit)
            shots = _set_num_fewshot(lm_eval_task, settings.num_fewshot)
            metric = _choose_metric(member, lm_eval_task, selection.metric_for(member, name))
        except TaskError as error:
            self.problems.append(str(error))
            return
        group = _find_group(name, member, metric, groups)
        task = LmEvalTask(member, group, metric, shots, settings, lm_eval_task)
        previous = self.tasks.setdefault(member, task)
        if previous.settings != settings:
            self.problems.append(f"task {member!r} is named twice with different options: name it once")


def _expand_patterns(names: Iterable[str], manager: Any) -> Iterator[str]:
    for name in names:
        matches = manager.match_tasks([name]) if "*" in name else []
        yield from matches or [name]


def _find_group(name: str, member: str, metric: Metric, groups: Mapping[str, Any]) -> TaskGroup | None:
    """Return the largest group over which lm-eval averages the metric of a task, else the requested group.

    Args:
        name: Name by which the task was requested.
        member: Name of the task.
        metric: Metric that defines the score of the task.
        groups: lm-eval's groups below ``name``, by name.

    Returns:
        The group, or None if the task was requested by its own name.
    """
    members_by_group: dict[str, list[str]] = {}
    for group_name, group in groups.items():
        members = [task.task_name for task in group.get_all_tasks()]
        if member in members:
            members_by_group[group_name] = members
    for group_name in sorted(members_by_group, key=lambda group_name: -len(members_by_group[group_name])):
        for aggregate in groups[group_name].aggregate_metric_list or []:
            if aggregate.metric == metric.name:
                return TaskGroup(group_name, aggregate.weight_by_size, tuple(sorted(members_by_group[group_name])))
    if name == member:
        return None
    return TaskGroup(name)


def _check_task(name: str, lm_eval_task: Any, limit: int | None) -> None:
    """Raise an error if a task cannot be run, or has too few examples."""
    if getattr(lm_eval_task, "MULTIMODAL", False):
        raise TaskError(f"task {name!r} needs images or sound: only text is supported")
    if getattr(lm_eval_task, "UNSAFE_CODE", False):
        raise TaskError(f"task {name!r} runs code that the model has written, which is not supported")
    examples = len(lm_eval_task.eval_docs)
    if limit is not None and examples < limit:
        raise TaskError(f"task {name!r} has {examples} examples, fewer than the limit of {limit}: lower --limit")


def _set_num_fewshot(lm_eval_task: Any, num_fewshot: int | None) -> int:
    """Set and return the number of few-shot examples. As in lm-eval, a task that fixes 0 keeps it."""
    shots = lm_eval_task.get_config("num_fewshot")
    if num_fewshot is not None and shots != 0:
        shots = num_fewshot
    lm_eval_task.set_config("num_fewshot", shots or 0)
    return int(shots or 0)


def _choose_metric(name: str, lm_eval_task: Any, requested: str | None) -> Metric:
    directions = lm_eval_task.higher_is_better()
    metrics = {metric: directions.get(metric) is not False for metric in lm_eval_task.aggregation()}
    return choose_metric(name, metrics, filter_names(lm_eval_task), requested)
