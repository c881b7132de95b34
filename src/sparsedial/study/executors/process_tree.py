"""Ending a process together with everything that it has started, such as the helpers that a task forks.

The processes are found in ``/proc``: descendants, and members of the session of the process. On systems without
``/proc``, only the process group is ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MAX_SWEEPS = 10
"""Largest number of searches for processes that were started while others were killed."""

PROC = Path("/proc")


@dataclass(frozen=True)
class _Process:
    """A running process, as ``/proc/<number>/stat`` describes it."""

    number: int
    parent: int
    session: int


def kill_session(leader: int) -> None:
    """Kill a process that leads a session, its process group, its session and all descendants.

    Args:
        leader: Number of a process that was started with a session of its own and that has not been waited for, so
            that its number cannot belong to another process.
    """
    for _ in range(MAX_SWEEPS):
        members = _find_tree(leader)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
        _kill(members)
        if members <= {leader}:
            return


def kill_descendants() -> None:
    """Kill all processes that this process has started, and those that they have started."""
    own = os.getpid()
    for _ in range(MAX_SWEEPS):
        descendants = _find_descendants(own)
        if not descendants:
            return
        _kill(descendants)


def _kill(numbers: Iterable[int]) -> None:
    for number in numbers:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(number, signal.SIGKILL)


def _find_tree(leader: int) -> set[int]:
    """Return the living members of a session and their descendants."""
    processes = list(_living_processes())
    tree = {process.number for process in processes if process.session == leader}
    return tree | _collect_descendants({leader, *tree}, processes)


def _find_descendants(ancestor: int) -> set[int]:
    """Return the living descendants of a process."""
    return _collect_descendants({ancestor}, list(_living_processes()))


def _collect_descendants(ancestors: set[int], processes: list[_Process]) -> set[int]:
    """Return the descendants of processes, without these processes."""
    family = set(ancestors)
    while True:
        children = {process.number for process in processes if process.parent in family} - family
        if not children:
            return family - ancestors
        family |= children


def _living_processes() -> Iterator[_Process]:
    """Yield all processes that are not zombies. None if the system has no ``/proc``."""
    if not PROC.is_dir():
        return
    for folder in PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        with suppress(OSError):  # the process has ended
            # The name of the program is in parentheses and can hold blanks and parentheses itself.
            state, parent, _group, session = (
                (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
            )
            if state not in ("Z", "X"):
                yield _Process(int(folder.name), int(parent), int(session))
