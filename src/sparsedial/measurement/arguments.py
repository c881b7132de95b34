"""The arguments of `sparsedial.measure` as a study, and as the models and tasks that are objects in memory."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from sparsedial.errors import AttachError, SpecError
from sparsedial.ffn.sites import check_site_name
from sparsedial.hooks.vector_reservation import is_sparsified
from sparsedial.measurement.argument_types import check_tokenizer
from sparsedial.models.in_memory import ModelInMemory, check_model, default_name, without_compilation
from sparsedial.rules import RULES, Rule
from sparsedial.study.in_memory import ObjectsInMemory
from sparsedial.study.run_command_options import TASK_OPTIONS
from sparsedial.study.spec import StudySpec
from sparsedial.study.value_grids import find_value_grid
from sparsedial.suggestions import suggest
from sparsedial.tasks.base import Task
from sparsedial.tasks.registry import TASK_METHODS, task_option_names
from sparsedial.tasks.spec import TaskSpec
from sparsedial.tasks.task_names import check_task_name

SOURCE = "measure"
"""Beginning of the error messages about arguments of the wrong type."""

LOADING_DEFAULTS = {"device": "auto", "dtype": "auto", "trust_remote_code": False}
"""Arguments that apply only to a model that is loaded by its name, with their defaults."""


def describe_study(
    model: Any, tokenizer: Any = None, *, name: str | None = None, device: str = "auto", **arguments: Any
) -> tuple[StudySpec, ObjectsInMemory]:
    """Return the study that arguments of `sparsedial.measure` describe. Its names and numbers are not checked yet.

    Args:
        model: Name of a model, or a model in memory.
        tokenizer: The tokenizer of a model in memory.
        name: Name of a model in memory in tables and files. Defaults to None, which means `default_name`.
        device: Device of a model that is loaded by its name.
        **arguments: Arguments of `sparsedial.measure` that describe the study.

    Returns:
        The study and its objects in memory.

    Raises:
        SpecError: An argument is unknown or of the wrong type, or does not apply to the model.
        ModelError: The model in memory is no language model of transformers.
    """
    tasks, task_objects = _split_tasks(arguments.pop("tasks"))
    named_tasks = [task for task in tasks if task.name not in task_objects]
    rules, values = _split_rules(arguments.pop("rule"), arguments.pop("p"))
    sites = arguments.pop("sites")
    layers = arguments.pop("layers")
    phases = arguments.pop("phases", None)
    data = {
        "sites": _list_sites(sites),
        "rules": rules,
        "tasks": list(map(TaskSpec.to_json, tasks)),
        "values": values,
        "layers": _list_entries(layers),
        "phases": _list_entries(phases),
        "task_options": _find_task_options(arguments.pop("task_options"), named_tasks, arguments),
        **_convert_values(arguments),
    }
    if isinstance(model, str | os.PathLike):
        _check_named_model(tokenizer, name)
        objects = ObjectsInMemory({}, task_objects)
        model_name = os.fspath(model)
    else:
        objects = ObjectsInMemory(_wrap_model(model, tokenizer, name, device, arguments), task_objects)
        model_name = next(iter(objects.models))
    if model_name in task_objects:
        raise SpecError(f"name {model_name!r}: a task in memory has this name as well. Choose another name.")
    data["models"] = [model_name]
    data["in_memory"] = list(objects.names)
    return StudySpec.from_json(data, SOURCE), objects


def _as_list(value: Any) -> list[Any]:
    """Return the entries of an argument that takes one entry or several."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def _list_entries(value: Any) -> list[Any] | None:
    """Return the distinct entries of an argument that takes one entry or several, as plain data. None stays None."""
    if value is None:
        return None
    entries = list(map(_convert_value, _as_list(value)))
    if not all(isinstance(entry, Hashable) for entry in entries):
        raise SpecError(f"{value!r}: expected one value, or a list of values without lists inside")
    return list(dict.fromkeys(entries))


def _list_sites(sites: Any) -> list[Any] | None:
    """Return the names of the sites. None stays None."""
    names = _list_entries(sites)
    for name in names or []:
        check_site_name(name)
    return names


def _convert_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(values, map(_convert_value, values.values()), strict=True))


def _convert_value(value: Any) -> Any:
    """Return a value as Python has it: a path as text, and a number of NumPy or torch as a number."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and not isinstance(value, str):
        return value.item()
    return value


def _wrap_model(
    model: Any, tokenizer: Any, name: str | None, device: str, arguments: Mapping[str, Any]
) -> dict[str, ModelInMemory]:
    """Return a model in memory by its name, after checking that all arguments apply to it."""
    check_model(model)
    check_tokenizer(tokenizer)
    if is_sparsified(model):
        raise AttachError(
            "model: it is sparsified or accelerated at present, so its dense score would not be that of the dense "
            "model. Leave the `with` block of sparsify, or call restore() of the accelerated model, before measure."
        )
    values = {**arguments, "device": device}
    for option, default in LOADING_DEFAULTS.items():
        if values[option] != default:
            raise SpecError(
                f"{option} {values[option]!r}: it applies only to a model that is loaded by its name. The model "
                "in memory is measured as it is: convert or move it before the call, and leave out this argument."
            )
    wrapped = ModelInMemory(without_compilation(model), tokenizer, name or default_name(model))
    return {wrapped.name: wrapped}


def _check_named_model(tokenizer: Any, name: str | None) -> None:
    for option, value in (("tokenizer", tokenizer), ("name", name)):
        if value is not None:
            raise SpecError(
                f"{option}: it applies only to a model in memory, but the model is a name, so it is loaded with its "
                "own tokenizer. Leave it out, or pass the model that load_model returns."
            )


def _split_tasks(tasks: Any) -> tuple[list[TaskSpec], dict[str, Task]]:
    """Return the tasks by their names in the study, and those that are objects in memory."""
    specs: list[TaskSpec] = []
    objects: dict[str, Task] = {}
    for entry in _as_list(tasks):
        if isinstance(entry, TaskSpec):
            specs.append(entry)
        elif isinstance(entry, str | Mapping):
            specs.append(TaskSpec.from_json(entry))
        else:
            _check_task(entry)
            if objects.setdefault(entry.name, entry) != entry:
                raise SpecError(f"task {entry.name!r}: two tasks have this name. Give each task a name of its own.")
    for spec in specs:
        if spec.name in objects:
            raise SpecError(f"task {spec.name!r}: named and passed as an object. Choose one of the two.")
    return [*specs, *map(TaskSpec, objects)], objects


def _check_task(task: Any) -> None:
    """Check that an object has the interface of a task, and that its identity can be stored."""
    kind = type(task).__name__
    if isinstance(task, type):
        raise SpecError(f"task {task.__name__}: got a class: expected an object. Write {task.__name__}().")
    missing = [attribute for attribute in TASK_METHODS if not hasattr(task, attribute)]
    if missing:
        raise SpecError(
            f"task of type {kind}: it has no {', '.join(missing)}: expected the name of a task, a mapping of a name "
            "and options, or an object with the methods of sparsedial.tasks.Task"
        )
    check_task_name(task.name, f"task of type {kind}")
    identity = task.identity()
    if not isinstance(identity, Mapping) or identity.get("task") != task.name:
        raise SpecError(
            f"task {task.name!r}: its identity() returned {identity!r}: expected a dictionary with the entry "
            f"'task': {task.name!r}, a version, and everything else that changes the score"
        )


def _split_rules(rule: Any, p: Any) -> tuple[list[Any], list[Any] | None]:
    """Return the names of the rules and the values of their parameter. None means that a search chooses them."""
    values = list(find_value_grid(p)) if isinstance(p, str) else _list_entries(p)
    names: list[Any] = []
    values_by_name: dict[str, list[float]] = {}
    for entry in _as_list(rule):
        if isinstance(entry, Rule):
            _check_registered(type(entry))
            values_by_name.setdefault(entry.family, []).append(entry.value)
        elif isinstance(entry, type) and issubclass(entry, Rule):
            _check_registered(entry)
            names.append(entry.name)
        elif isinstance(entry, str):
            names.append(entry)
        else:
            raise SpecError(
                f"rule {entry!r}: expected the name of a rule, a class such as TopP, or rules such as TopP(0.9)"
            )
    if not values_by_name:
        return list(dict.fromkeys(names)), values
    if values is not None or names:
        raise SpecError(
            "rule: rules with a value, such as TopP(0.9), are the points to measure. They cannot be combined with p, "
            "nor with rules without a value."
        )
    grids = list(values_by_name.values())
    if len(set(map(frozenset, grids))) > 1:
        raise SpecError(
            f"rule: the rules {', '.join(values_by_name)} have different values: expected the same values for each of "
            "them. Call measure once for each rule, with an out= of its own."
        )
    return list(values_by_name), list(dict.fromkeys(grids[0]))


def _check_registered(rule_class: type[Rule]) -> None:
    """Check that the name of a rule stands for its class, because a study knows rules by their names."""
    registered = RULES.find(getattr(rule_class, "name", ""))
    if registered is None or (registered.__module__, registered.__qualname__) != (
        rule_class.__module__,
        rule_class.__qualname__,
    ):
        raise SpecError(
            f"rule {rule_class.__name__}: the class is not registered. Expected @sparsedial.register_rule above "
            "@dataclass(frozen=True), and a name of its own, such as name: ClassVar[str] = 'my_rule'."
        )


def _find_task_options(
    options: Mapping[str, Any], tasks: Sequence[TaskSpec], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of the tasks that are set, as plain data. An unknown name is compared with all arguments."""
    known = dict.fromkeys(TASK_OPTIONS)
    for task in tasks:
        known.update(dict.fromkeys(task_option_names(task.name)))
    chosen = {}
    for option, value in options.items():
        if option not in known:
            names = ["sites", "tasks", "rule", "p", "layers", "phases", "out", "progress", "device", "name"]
            names += [*arguments, *known]
            raise SpecError(
                f"measure: unknown argument {option!r}: {suggest(option, names) or 'see its documentation'}"
            )
        if value is not None:
            chosen[option] = list(value) if isinstance(value, tuple) else _convert_value(value)
    if chosen and not tasks:
        raise SpecError(
            f"measure: {', '.join(chosen)}: options of tasks, but every task is an object, which has its own settings. "
            "Leave them out."
        )
    return chosen
