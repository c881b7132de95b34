"""Look-up of names in lm-eval's index of tasks, and explanation of why a name cannot be loaded."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparsedial.errors import TaskDataError, TaskError
from sparsedial.models import zoo_package
from sparsedial.optional_packages import find_extra, install_command, require_extra
from sparsedial.suggestions import suggest
from sparsedial.tasks.lm_eval.encoder import seed_random_generators, silence_lm_eval

DATA_PACKAGES = ("datasets", "huggingface_hub", "fsspec")
"""Packages that fetch and read data sets."""
MAX_CACHED_MANAGERS = 4
FolderState = tuple[tuple[str, int], ...]
"""Paths of the YAML files of a folder, and when each was changed, in nanoseconds."""


def find_task_manager(names: tuple[str, ...], include_path: str | Path | None) -> Any:
    """Return lm-eval's index of tasks.

    Args:
        names: Names to look up. If the folder and the model zoo define all of them, the 14 000 tasks of lm-eval itself,
            which take ten seconds to index, are omitted from the index.
        include_path: Folder with the YAML files of further tasks, or None.

    Returns:
        lm-eval's ``TaskManager``.

    Raises:
        TaskError: lm-eval is not installed.
    """
    require_extra("eval", f"tasks {', '.join(names)}", TaskError)
    folder = None if include_path is None else str(include_path)
    state = _read_state(folder)
    try:
        local = _local_task_manager(folder, state)
        if local is not None and all(_is_known(name, local.task_index) for name in names):
            return local
        return _complete_task_manager(folder, state)
    except ImportError as error:
        raise TaskError(
            f"tasks {', '.join(names)}: lm-eval cannot be imported ({error}): {install_command('eval')}"
        ) from error


def _read_state(include_path: str | None) -> FolderState:
    """Return the state of a folder with the YAML files of tasks. An index of another state is out of date."""
    if include_path is None:
        return ()
    paths = filter(Path.is_file, Path(include_path).rglob("*.yaml"))
    return tuple(sorted((str(path), path.stat().st_mtime_ns) for path in paths))


@lru_cache(maxsize=MAX_CACHED_MANAGERS)
def _local_task_manager(include_path: str | None, state: FolderState) -> Any:
    """Return an index of the tasks of the folder and of the model zoo, or None if there are none."""
    folders = _list_folders(include_path)
    if not folders:
        return None
    with silence_lm_eval():
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=folders, include_defaults=False)


@lru_cache(maxsize=MAX_CACHED_MANAGERS)
def _complete_task_manager(include_path: str | None, state: FolderState) -> Any:
    """Return an index of the tasks of the folder, of the model zoo and of lm-eval itself."""
    with silence_lm_eval():
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=_list_folders(include_path) or None)


def _list_folders(include_path: str | None) -> list[str]:
    return list(map(str, filter(None, (zoo_package.lm_eval_tasks_folder(), include_path))))


def load_tasks_and_groups(name: str, manager: Any, other_names: Sequence[str] = ()) -> dict[str, Any]:
    """Load the tasks and groups that one name stands for in lm-eval.

    Args:
        name: Name of a task, group or tag, or a YAML file.
        manager: Index of tasks from `find_task_manager`.
        other_names: Names of tasks and sets of tasks outside lm-eval. They are suggested if ``name`` is similar.

    Returns:
        A dictionary with the ``tasks``, including their data, and the ``groups`` that they are in, by name.

    Raises:
        TaskDataError: The data of the task cannot be loaded.
        TaskError: The name is unknown, a group names a task twice, or lm-eval cannot create the task on this machine.
    """
    if name not in manager.task_index and not Path(name).is_file():
        raise TaskError(_describe_unknown_task(name, manager, other_names))
    _check_repeated_members(name, manager.task_index)
    try:
        with silence_lm_eval(), seed_random_generators():
            loaded: dict[str, Any] = manager.load([name])
    except ImportError as error:
        raise TaskError(_describe_missing_package(name, error)) from error
    except Exception as error:  # data sets and the code of tasks can raise any exception
        cause = f"({type(error).__name__}: {_first_line(error)})"
        if _is_about_data(error):
            raise TaskDataError(f"task {name!r}: its dataset could not be loaded {cause}") from error
        raise TaskError(f"task {name!r}: lm-eval cannot create it: check its YAML and its data {cause}") from error
    return loaded


@dataclass(frozen=True)
class GroupMember:
    """A task, and the group that directly contains it.

    Attributes:
        name: lm-eval's name of the task. Members of different groups may have the same name.
        group: Name of the group, or None if the task was not requested by a group.
        lm_eval_task: Task object of lm-eval.
    """

    name: str
    group: str | None
    lm_eval_task: Any


def list_members(loaded: Mapping[str, Any]) -> list[GroupMember]:
    """Return all tasks, including those of the same name in different groups.

    Args:
        loaded: Tasks and groups from `load_tasks_and_groups`, which keeps one task of each name.

    Returns:
        The tasks, in the order of lm-eval's groups.
    """
    if not loaded["groups"]:
        return [GroupMember(name, None, task) for name, task in loaded["tasks"].items()]
    members: dict[int, GroupMember] = {}  # a group and the groups that contain it have the same task objects
    for group_name, group in loaded["groups"].items():
        for task in group.get_all_tasks(recursive=False):
            members.setdefault(id(task), GroupMember(task.task_name, group_name, task))
    return list(members.values())


def _check_repeated_members(name: str, task_index: Mapping[str, Any], parents: tuple[str, ...] = ()) -> None:
    """Raise an error if a group names a task twice, because lm-eval would silently drop the first of them."""
    if name not in task_index or name in parents:
        return
    for members in _member_lists((task_index[name].cfg or {}).get("task")):
        entries: dict[str, Any] = {}
        for entry in members:
            member = _entry_name(entry)
            if entries.setdefault(member, entry) != entry:
                raise TaskError(
                    f"group {name!r} names {member!r} twice with different settings, of which lm-eval would run only "
                    "the last: put one of them into a group of its own, or define it as a task with another name"
                )
            _check_repeated_members(member, task_index, (*parents, name))


def _member_lists(members: Any) -> Iterator[list[Any]]:
    """Yield the named entries in the task list of a group, and in that of each group that is defined inside of it."""
    if not isinstance(members, list):
        return
    yield list(filter(_entry_name, members))
    for member in members:
        if isinstance(member, Mapping):
            yield from _member_lists(member.get("task"))


def _entry_name(entry: Any) -> str:
    """Return the name of the task or group in a task list. It is empty if the entry has none."""
    if isinstance(entry, str):
        return entry
    name = entry.get("group") or entry.get("task")
    return name if isinstance(name, str) else ""


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


def _describe_unknown_task(name: str, manager: Any, other_names: Sequence[str]) -> str:
    hint = suggest(name, other_names, manager.all_tasks) or "`lm-eval ls tasks` lists the tasks of lm-eval."
    return f"unknown task {name!r}: {hint} To use your own tasks, pass their folder as --include-path."


def _describe_missing_package(name: str, error: ImportError) -> str:
    package = (error.name or "").split(".")[0] or "a package"
    extra = find_extra(package)
    if extra is not None:
        return f"task {name!r} needs {package}, which is not installed: {install_command(extra)}"
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
