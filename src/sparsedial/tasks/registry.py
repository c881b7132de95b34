"""The built-in and registered tasks, and the creation of tasks from their names and options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from sparsedial.errors import SparsedialError, SpecError
from sparsedial.registry import Registry
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
from sparsedial.tasks.task_names import check_task_name

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class TaskDefinition:
    """Definition of a task: its name, its options, and how it is created from them.

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


@dataclass(frozen=True)
class NoOptions:
    """Options of a task that was registered as an object: there are none."""


BUILTIN_TASKS = (
    TaskDefinition(SelfPrediction.name, SelfPrediction, _options_as_task, is_data_free=True),
    TaskDefinition(Restoration.name, Restoration, _options_as_task, is_data_free=True),
    TaskDefinition(DenoisingReplay.name, DenoisingReplayOptions, DenoisingReplayOptions.create_task, is_data_free=True),
    TaskDefinition(NextToken.name, NextToken, _options_as_task),
    TaskDefinition(MaskedToken.name, MaskedToken, _options_as_task),
)
"""Built-in tasks, in the order in which `make_tasks` returns them. Any name that is not registered is of lm-eval."""

TaskT = TypeVar("TaskT")


def register_task(task: TaskT) -> TaskT:
    """Register a task, so that its name can be used wherever that of a built-in task can be.

    A registered task hides a task of lm-eval that has the same name.

    Args:
        task: A class that implements `Task` and is a frozen dataclass, whose fields are its options; each has a
            default. Or an object that implements `Task` and has no options, or a `TaskDefinition`. The examples of the
            task are taken to be sampled from the model if it has an attribute ``is_data_free`` that is True.

    Returns:
        The argument, so that this function can be used as a decorator above ``@dataclass(frozen=True)``. A `SpecError`
        is raised if it is none of these, or if another task has its name.

    Example:
        >>> import numpy as np
        >>> from sparsedial.tasks.base import Scores
        >>> @register_task
        ... @dataclass(frozen=True)
        ... class Constant:
        ...     examples: int = 2
        ...     name = "constant"
        ...     reuse_mask = 1
        ...
        ...     def identity(self):
        ...         return {"task": self.name, "version": 1, "examples": self.examples}
        ...
        ...     def prepare(self, lm, progress=None):
        ...         return {}
        ...
        ...     def score(self, lm, examples, sparsifier=None, progress=None):
        ...         return Scores("accuracy", np.ones(self.examples), higher_is_better=True)
        >>> make_tasks([TaskSpec("constant", {"examples": 5})])
        [Constant(examples=5)]
    """
    if isinstance(task, TaskDefinition):
        check_task_name(task.name, "task definition")
        _TASKS.add(task.name, task, task.options)
    else:
        owner: type[Any] = task if isinstance(task, type) else type(task)
        _check_task(task, owner)
        options = owner if task is owner else NoOptions
        create = _options_as_task if task is owner else partial(_return_object, task)
        name = getattr(task, "name", None)
        check_task_name(name, f"task {owner.__module__}.{owner.__qualname__}")
        definition = TaskDefinition(str(name), options, create, is_data_free=bool(getattr(task, "is_data_free", False)))
        _TASKS.add(name, definition, owner)
    return task


def _return_object(task: Any, _: NoOptions) -> Any:
    """Return a task that was registered as an object."""
    return task


def _check_task(task: object, owner: type[Any]) -> None:
    """Raise an error if a class or an object cannot be registered as a task."""
    source = f"task {owner.__module__}.{owner.__qualname__}"
    missing = [name for name in TASK_METHODS if not hasattr(task, name)]
    if missing:
        raise SpecError(f"{source}: {', '.join(missing)} missing: expected what sparsedial.tasks.base.Task describes")
    if task is not owner:
        return
    parameters = vars(owner).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise SpecError(f"{source}: expected @dataclass(frozen=True) on the line below @register_task")
    for field in fields(owner):
        if field.default is MISSING and field.default_factory is MISSING:
            raise SpecError(f"{source}: the option {field.name!r} has no default: expected one for each field")


TASK_METHODS = ("name", "reuse_mask", "identity", "prepare", "score")
"""Attributes of every task."""

_TASKS: Registry[TaskDefinition] = Registry(
    "task", "sparsedial.tasks", {definition.name: definition for definition in BUILTIN_TASKS}, register_task
)


def task_registry() -> Registry[TaskDefinition]:
    """Return all tasks by name, without those of lm-eval."""
    return _TASKS


def is_data_free(task_name: str) -> bool:
    """Return True if the examples of a task are sampled from the model, so that it needs no data set.

    The paper does not use such tasks, so they are excluded from the average over tasks.

    Args:
        task_name: Name of a task. The result is False for any name that is not registered.

    Example:
        >>> is_data_free("self_prediction"), is_data_free("arc_easy")
        (True, False)
    """
    definition = _TASKS.find(task_name)
    return definition is not None and definition.is_data_free


def task_option_names(task_name: str) -> tuple[str, ...]:
    """Return the names of the options of a task.

    Args:
        task_name: Name of a task. Any name that is not registered has the options of lm-eval tasks.

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
        The built-in tasks, in the order of `BUILTIN_TASKS`, then the registered tasks, then the tasks of lm-eval in the
        order of their names.

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
    registered_tasks: dict[str, Task] = {}
    selections: list[TaskSelection] = []
    for spec in specs:
        try:
            options = _parse_spec(spec, shared_options)
            if isinstance(options, LmEvalOptions):
                selections.append(TaskSelection((spec.name,), options.settings()))
            else:
                task = _TASKS[spec.name].create(options)
                if registered_tasks.setdefault(spec.name, task) != task:
                    raise SpecError(f"task {spec.name!r} is named twice with different options: name it once")
        except SparsedialError as error:
            errors.append(error)
    order = [*_TASKS.builtin_names, *registered_tasks]  # the order of the study, after the built-in tasks
    tasks = [registered_tasks[name] for name in dict.fromkeys(order) if name in registered_tasks]
    if selections:
        try:
            loaded = load_lm_eval_tasks(selections, tuple(_TASKS))
            for task in loaded:
                check_task_name(task.name, "task of lm-eval")
            tasks += loaded
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
    definition = _TASKS.find(task_name)
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
    for name, value in shared_options.items():
        if name == "metrics" and isinstance(value, Mapping):  # each entry names a task, however it was typed
            if name not in known:
                errors += map(SpecError, _describe_unused_metrics(specs, value))
        elif name not in known:
            hint = did_you_mean(name, known)
            errors.append(
                SpecError(f"unknown task option {name!r}{hint} The tasks have the options {', '.join(known)}.")
            )
    return errors


def _describe_unused_metrics(specs: Sequence[TaskSpec], metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each metric that no task takes."""
    names = [spec.name for spec in specs]
    for task in metrics:
        if task in names:
            yield f"task {task!r}: it has no choice of metrics. Leave out the metric {metrics[task]!r}."
        else:
            yield f"a metric is given for {task!r}, which is not among the tasks {', '.join(names)}"


def _raise_all(errors: Sequence[SparsedialError]) -> None:
    """Raise a single error unchanged, or several errors as one `SpecError` with one line for each."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SpecError("\n".join(dict.fromkeys(map(str, errors))))
