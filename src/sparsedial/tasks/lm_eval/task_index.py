"""Look-up of names in lm-eval's index of tasks, and explanation of why a name cannot be loaded."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparsedial.errors import TaskError
from sparsedial.tasks.lm_eval.encoder import silence_lm_eval

DATA_UNAVAILABLE = "its dataset could not be loaded"
DATA_PACKAGES = ("datasets", "huggingface_hub", "fsspec")
"""Packages that fetch and read data sets."""
MAX_CACHED_MANAGERS = 4


def find_task_manager(names: tuple[str, ...], include_path: str | Path | None) -> Any:
    """Return lm-eval's index of tasks.

    Args:
        names: Names to look up. If the folder defines all of them, the 14 000 tasks of lm-eval itself, which take
            ten seconds to index, are omitted from the index.
        include_path: Folder with the YAML files of further tasks, or None.

    Returns:
        lm-eval's ``TaskManager``.

    Raises:
        TaskError: lm-eval is not installed.
    """
    try:
        return _cached_task_manager(names, None if include_path is None else str(include_path))
    except ImportError as error:
        raise TaskError(f"tasks {', '.join(names)} need lm-eval: pip install 'lm_eval[hf]' ({error})") from error


@lru_cache(maxsize=MAX_CACHED_MANAGERS)
def _cached_task_manager(names: tuple[str, ...], include_path: str | None) -> Any:
    with silence_lm_eval():
        from lm_eval.tasks import TaskManager

        if include_path is not None:
            local = TaskManager(include_path=include_path, include_defaults=False)
            if all(_is_known(name, local.task_index) for name in names):
                return local
        return TaskManager(include_path=include_path)


def load_tasks_and_groups(name: str, manager: Any) -> dict[str, Any]:
    """Load the tasks and groups that one name stands for in lm-eval.

    Args:
        name: Name of a task, group or tag, or a YAML file.
        manager: Index of tasks from `find_task_manager`.

    Returns:
        A dictionary with the ``tasks``, including their data, and the ``groups`` that they are in, by name.

    Raises:
        TaskError: The name is unknown, or lm-eval cannot create the task on this machine.
    """
    if name not in manager.task_index and not Path(name).is_file():
        raise TaskError(_describe_unknown_task(name, manager))
    try:
        with silence_lm_eval():
            loaded: dict[str, Any] = manager.load([name])
    except ImportError as error:
        raise TaskError(_describe_missing_package(name, error)) from error
    except Exception as error:  # data sets and the code of tasks can raise any exception
        reason = DATA_UNAVAILABLE if _is_about_data(error) else "lm-eval cannot create it: check its YAML and its data"
        raise TaskError(f"task {name!r}: {reason} ({type(error).__name__}: {_first_line(error)})") from error
    return loaded


def _is_known(name: str, task_index: Mapping[str, Any], parents: tuple[str, ...] = ()) -> bool:
    """Return True if the index contains a name and, if it names a group, every member of the group."""
    if name not in task_index:
        return Path(name).is_file() or any(name in entry.tags for entry in task_index.values())
    if name in parents:  # the group contains itself, which lm-eval reports when it is loaded
        return True
    members = _member_names((task_index[name].cfg or {}).get("task"))
    return all(_is_known(member, task_index, (*parents, name)) for member in members)


def _member_names(members: Any) -> Iterator[str]:
    """Yield the names in the task list of a group, including the members of nested groups."""
    if not isinstance(members, list):
        return
    for member in members:
        if isinstance(member, str):
            yield member
            continue
        nested = member.get("task")
        if isinstance(nested, str):
            yield nested
        else:
            yield from _member_names(nested)


def _describe_unknown_task(name: str, manager: Any) -> str:
    matches = difflib.get_close_matches(name, manager.all_tasks, 3)
    hint = "`lm-eval ls tasks` lists the tasks of lm-eval."
    if matches:
        hint = f"did you mean {' or '.join(matches)}?"
    return f"unknown task {name!r}: {hint} To use your own tasks, pass their folder as --include-path."


def _describe_missing_package(name: str, error: ImportError) -> str:
    package = (error.name or "").split(".")[0] or "a package"
    return (
        f"task {name!r} needs {package}, which is not installed: {_first_line(error)}. Some tasks of lm-eval need "
        f"further packages: pip install {package}, or see lm-eval's page about the task"
    )


def _is_about_data(error: BaseException) -> bool:
    """Return True if an error, or one that caused it, was raised while data was fetched or read."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) or _passed_through(current, DATA_PACKAGES):
            return True
        current = current.__cause__ or current.__context__
    return False


def _passed_through(error: BaseException, packages: tuple[str, ...]) -> bool:
    """Return True if code of one of the packages is in the traceback of an error."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").split(".")[0] in packages:
            return True
    return False


def _first_line(error: Exception) -> str:
    """Return the first line of an error message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no error message"
