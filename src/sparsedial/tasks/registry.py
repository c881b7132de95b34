"""The built-in tasks, and the creation of tasks from their names and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sparsedial.errors import SparsedialError, SpecError
from sparsedial.tasks.base import Task
from sparsedial.tasks.denoising_replay import DenoisingReplay, DenoisingReplayOptions
from sparsedial.tasks.lm_eval.loader import TaskSelection, load_lm_eval_tasks
from sparsedial.tasks.lm_eval.options import LmEvalOptions
from sparsedial.tasks.masked_token import MaskedToken
from sparsedial.tasks.next_token import NextToken
from sparsedial.tasks.option_parsing import did_you_mean, option_field_names, parse_options
from sparsedial.tasks.restoration import Restoration
from sparsedial.tasks.self_prediction import SelfPrediction
from sparsedial.tasks.spec import TaskSpec

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class TaskDefinition:
    """Definition of a built-in task.

    Attributes:
        name: Name by which a study requests the task.
        options: Frozen dataclass with the options of the task.
        create: Function that creates the task from its options.
        is_data_free: True if the examples are sampled from the model, so that the task needs no data set.
    """

    name: str
    options: type[Any]
    create: Callable[[Any], Task]
    is_data_free: bool = False


def _options_as_task(options: Task) -> Task:
    """Return the options unchanged, for task classes that are their own options dataclass."""
    return options


BUILTIN_TASKS = (
    TaskDefinition(SelfPrediction.name, SelfPrediction, _options_as_task, is_data_free=True),
    TaskDefinition(Restoration.name, Restoration, _options_as_task, is_data_free=True),
    TaskDefinition(DenoisingReplay.name, DenoisingReplayOptions, DenoisingReplayOptions.create_task, is_data_free=True),
    TaskDefinition(NextToken.name, NextToken, _options_as_task),
    TaskDefinition(MaskedToken.name, MaskedToken, _options_as_task),
)
"""Built-in tasks, in the order in which `make_tasks` returns them. Any other name is a task of lm-eval."""

_DEFINITIONS = {definition.name: definition for definition in BUILTIN_TASKS}


def is_data_free(task_name: str) -> bool:
    """Return True if the examples of a task are sampled from the model, so that it needs no data set.

    The paper does not use such tasks, so they are excluded from the average over tasks.

    Args:
        task_name: Name of a task. The result is False for any name that is not among `BUILTIN_TASKS`.

    Example:
        >>> is_data_free("self_prediction"), is_data_free("arc_easy")
        (True, False)
    """
    definition = _DEFINITIONS.get(task_name)
    return definition is not None and definition.is_data_free


def task_option_names(task_name: str) -> tuple[str, ...]:
    """Return the names of the options of a task.

    Args:
        task_name: Name of a task. Any name that is not among `BUILTIN_TASKS` has the options of lm-eval tasks.

    Example:
        >>> task_option_names("self_prediction")
        ('sequences', 'length', 'seed', 'batch', 'metric')
    """
    return option_field_names(_options_type(task_name))


def make_tasks(specs: Sequence[TaskSpec], shared_options: Mapping[str, Any] = NO_OPTIONS) -> list[Task]:
    """Create tasks, and check everything about them that can be checked without a model.

    Args:
        specs: Names of the tasks, and the options that apply to a single task.
        shared_options: Options by name. Each applies to all tasks that have an option of this name, unless the spec
            of a task overrides it. None means the default of the task.

    Returns:
        The built-in tasks, in the order of `BUILTIN_TASKS`, then the tasks of lm-eval in the order of their names.

    Raises:
        SpecError: An option or its value is wrong, or a task is named twice with different options. If several
            things are wrong, the message has one line for each.
        TaskError: The only problem is a task of lm-eval, for example because it is unknown or its data is unavailable.

    Example:
        >>> tasks = make_tasks([TaskSpec("denoising"), TaskSpec("self_prediction", {"length": 8})], {"sequences": 2})
        >>> [(task.name, task.sequences, task.length) for task in tasks]
        [('self_prediction', 2, 8), ('denoising', 2, 96)]
        >>> make_tasks([TaskSpec("self_prediction")], {"sequence": 2})
        Traceback (most recent call last):
        sparsedial.errors.SpecError: unknown task option 'sequence': did you mean 'sequences'? The tasks have the ...
    """
    specs, shared_options = _assign_metrics(specs, shared_options)
    errors: list[SparsedialError] = _find_unused_options(specs, shared_options)
    builtin_tasks: dict[str, Task] = {}
    selections: list[TaskSelection] = []
    for spec in specs:
        try:
            options = _parse_spec(spec, shared_options)
            if isinstance(options, LmEvalOptions):
                selections.append(TaskSelection((spec.name,), options.settings()))
            else:
                task = _DEFINITIONS[spec.name].create(options)
                if builtin_tasks.setdefault(spec.name, task) != task:
                    raise SpecError(f"task {spec.name!r} is named twice with different options: name it once")
        except SparsedialError as error:
            errors.append(error)
    tasks = [builtin_tasks[name] for name in _DEFINITIONS if name in builtin_tasks]
    if selections:
        try:
            tasks += load_lm_eval_tasks(selections, tuple(_DEFINITIONS))
        except SparsedialError as error:
            errors.append(error)
    _raise_all(errors)
    return tasks


def _assign_metrics(
    specs: Sequence[TaskSpec], shared_options: Mapping[str, Any]
) -> tuple[Sequence[TaskSpec], Mapping[str, Any]]:
    """Move entries of the shared option ``metrics`` to the option ``metric`` of the tasks that have one."""
    metrics = shared_options.get("metrics")
    if not isinstance(metrics, Mapping):
        return specs, shared_options
    assigned_specs = []
    remaining = dict(metrics)
    for spec in specs:
        if spec.name in metrics and "metric" in task_option_names(spec.name):
            assigned_specs.append(TaskSpec(spec.name, {"metric": metrics[spec.name], **spec.options}))
            remaining.pop(spec.name, None)
        else:
            assigned_specs.append(spec)
    options = {name: value for name, value in shared_options.items() if name != "metrics"}
    if remaining or not metrics:
        options["metrics"] = remaining
    return assigned_specs, options


def _options_type(task_name: str) -> type[Any]:
    """Return the class with the options of a task."""
    definition = _DEFINITIONS.get(task_name)
    if definition is None:
        return LmEvalOptions
    return definition.options


def _parse_spec(spec: TaskSpec, shared_options: Mapping[str, Any]) -> Any:
    """Return the options of one task: the shared options that the task has, overridden by the options of its spec."""
    options_type = _options_type(spec.name)
    values: dict[str, Any] = {}
    for name in option_field_names(options_type):
        if name in shared_options:
            values[name] = shared_options[name]
    values.update(spec.options)
    return parse_options(options_type, values, spec.name)


def _find_unused_options(specs: Sequence[TaskSpec], shared_options: Mapping[str, Any]) -> list[SparsedialError]:
    """Return one error for each shared option that no task has."""
    known: dict[str, None] = {}
    for spec in specs:
        known.update(dict.fromkeys(task_option_names(spec.name)))
    errors: list[SparsedialError] = []
    for name in shared_options:
        if name not in known:
            hint = did_you_mean(name, known)
            errors.append(
                SpecError(f"unknown task option {name!r}{hint} The tasks have the options {', '.join(known)}.")
            )
    return errors


def _raise_all(errors: Sequence[SparsedialError]) -> None:
    """Raise a single error unchanged, or several errors as one `SpecError` with one line for each."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SpecError("\n".join(dict.fromkeys(map(str, errors))))
