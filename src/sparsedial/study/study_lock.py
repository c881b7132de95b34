"""A lock that keeps two different studies from running in one directory at the same time.

Processes that run the same study may share a directory. Each of them holds a shared lock on ``study.lock``, and the
file names the study. The operating system releases the lock of a process that dies, so a lock is never left behind.
The file stays, because a file that is locked cannot be removed safely.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsedial.errors import StorageError
from sparsedial.study.folder_layout import LOCK_FILE_NAME

MAX_LOCK_BYTES = 4096

_open_locks: set[int] = set()
"""Descriptors of the locks of this process."""


def _close_inherited_locks() -> None:
    """Close the locks in a forked process, so that a helper of a task does not keep the lock of a dead run."""
    for descriptor in _open_locks:
        os.close(descriptor)
    _open_locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_locks)


@contextmanager
def lock_study(folder: Path, spec: dict[str, Any]) -> Iterator[None]:
    """Hold the lock of a directory for a study. The lock can be held several times for the same study.

    On a file system without locks, nothing is checked.

    Args:
        folder: Directory of the study. It exists.
        spec: The study, as returned by `StudySpec.to_json`.

    Raises:
        StorageError: Another study is running in this directory, or the lock file cannot be opened.
    """
    path = folder / LOCK_FILE_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened: {error.strerror}. Check its permissions.") from None
    _open_locks.add(descriptor)
    try:
        text = json.dumps(spec, sort_keys=True)  # ASCII, whatever names the study contains
        _acquire(descriptor, folder, hashlib.sha256(text.encode()).hexdigest())
        yield
    finally:
        if descriptor in _open_locks:
            _open_locks.remove(descriptor)
            os.close(descriptor)


def _acquire(descriptor: int, folder: Path, study: str) -> None:
    """Take the shared lock. If no process holds it, the file is first made to name this study."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # another process holds the lock
    except OSError:
        return  # the file system has no locks
    else:
        _write_holder(descriptor, study)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    # The change to a shared lock is not atomic, so another process may have taken the lock in between.
    holder = _read_holder(descriptor)
    if holder.get("study") != study:
        raise StorageError(
            f"output directory {str(folder)!r} is in use: process {holder.get('process', '(unknown)')} on "
            f"{holder.get('host', '(unknown)')} has been running another study there since "
            f"{holder.get('time', '(unknown)')}. Wait until it ends, or choose another directory with --out."
        )


def _write_holder(descriptor: int, study: str) -> None:
    holder = {
        "study": study,
        "process": os.getpid(),
        "host": platform.node(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    except OSError as error:
        raise StorageError(f"{LOCK_FILE_NAME} cannot be written: {error.strerror}") from None


def _read_holder(descriptor: int) -> dict[str, Any]:
    """Return what the process that took the lock first has written. Empty if it is not readable."""
    try:
        holder = json.loads(os.pread(descriptor, MAX_LOCK_BYTES, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}
