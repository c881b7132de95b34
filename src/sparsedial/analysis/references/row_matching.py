"""Which rows of the results and which values of a reference are about the same model and task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pandas as pd

from sparsedial.analysis.labels import AVERAGE_OF_RETENTIONS, is_average
from sparsedial.analysis.references.records import Reference, ReferenceModel
from sparsedial.analysis.row_order import layer_ranges
from sparsedial.analysis.row_selection import drop_group_members
from sparsedial.tasks.registry import is_data_free
from sparsedial.tasks.task_names import AVERAGE

_ADDITION = re.compile(r"\s*\([^()]*\)$")  # what distinguishes equal names, such as "(bfloat16)" or "(57 tasks)"

_AVERAGE_OF_TASKS = re.compile(rf"(?:{AVERAGE_OF_RETENTIONS}|{AVERAGE}(?! of retentions)) of (.+)")


def find_model(reference: Reference, model: str) -> ReferenceModel | None:
    """Return the model of a reference that is the same as a measured one, or None.

    Args:
        reference: The reference.
        model: Display name of the measured model: a hub ID, the name of a directory, or an alias. What distinguishes
            it from other models of the same name, such as a data type, does not matter.

    Returns:
        The model, or None.
    """
    name = base_name(model)
    for candidate in reference.models:
        if name in map(base_name, candidate.matches or (candidate.name,)):
            return candidate
    return None


def base_name(model: str) -> str:
    """Return the name of a model without its organization, its additions and its case.

    Args:
        model: Display name of a model.

    Example:
        >>> base_name("google/Gemma-3-1b-pt (bfloat16)")
        'gemma-3-1b-pt'
    """
    return PurePath(_ADDITION.sub("", model).replace("\\", "/")).name.lower()


def base_task(task: str) -> str:
    """Return the name of a task without its additions. All averages of scores are ``average``.

    Args:
        task: Display name of a task.

    Example:
        >>> base_task("mmlu (57 tasks)"), base_task("average of arc_easy, piqa")
        ('mmlu', 'average')
    """
    if is_average(task) and not task.startswith(AVERAGE_OF_RETENTIONS):
        return AVERAGE
    return _ADDITION.sub("", task)


def is_same_task(reference: Reference, reference_task: str, task: str) -> bool:
    """Return True if a task of the reference is the same as a measured one.

    Args:
        reference: The reference.
        reference_task: Name of the task in the reference.
        task: Display name of the measured task.
    """
    name = base_task(reference_task)
    return base_task(task) in (name, *reference.task_names.get(name, ()))


def list_averaged_tasks(critical: pd.DataFrame, row: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return the tasks that an average covers.

    Args:
        critical: Table ``Results.critical``.
        row: The row of the average.

    Returns:
        The names of the tasks, sorted.
    """
    named = _AVERAGE_OF_TASKS.fullmatch(str(row["task"]))
    if named:
        return tuple(sorted(named[1].split(", ")))
    tasks = set()
    for other in drop_group_members(critical).to_dict("records"):
        task = str(other["task"])
        if _setting(other) == _setting(row) and not is_average(task) and not is_data_free(base_task(task)):
            tasks.add(task)
    return tuple(sorted(tasks))


def describe_other_tasks(reference: Reference, expected: Sequence[str], tasks: Sequence[str]) -> str:
    """Return a note if two averages cover different tasks. Empty if they do not, or if it is not known.

    Args:
        reference: The reference.
        expected: Tasks of the average in the reference.
        tasks: Tasks of the average here.
    """
    if not expected or not tasks:
        return ""
    matched = set()
    further = 0
    for task in tasks:
        name = _find_task(reference, expected, task)
        if name is None:
            further += 1
        else:
            matched.add(name)
    if len(matched) == len(expected) and not further:
        return ""
    note = f"the average here covers {len(matched)} of the {len(expected)} tasks of the reference"
    if further:
        note += f" and {further} others"
    return note


def _find_task(reference: Reference, names: Sequence[str], task: str) -> str | None:
    """Return the task of a reference that is the same as a measured one, or None."""
    for name in names:
        if is_same_task(reference, name, task):
            return name
    return None


def _setting(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return the model, site, rule and layers of a row."""
    return str(row["model"]), str(row["site"]), str(row["rule"]), layer_ranges(row["layers"])


def is_whole_model(layers: object) -> bool:
    """Return True if a row is about all layers of its model.

    Args:
        layers: The value of the column ``layers``.
    """
    return layer_ranges(layers) == "all"
