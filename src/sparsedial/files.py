"""Atomic writing of files, and SHA-256 digests of files."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
from enum import StrEnum
from pathlib import Path

LOCK_NAME = ".sparsedial.lock"
"""Name of the lock file in each directory of a file system that has neither hard links nor exclusive renames."""

AT_FDCWD = -100
RENAME_NOREPLACE = 1

_TEMPORARY_NAME = re.compile(r"\.sparsedial-[0-9a-f]{16}\.tmp")

_UNSUPPORTED = {
    errno.EPERM, errno.EACCES, errno.EINVAL, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV,
}  # fmt: skip
"""Errors of a file system that does not support an operation. SMB, FAT and FUSE have no hard links, for example."""


class ExclusiveMove(StrEnum):
    """Ways to move a file into place without replacing an existing file, in the order in which they are tried."""

    HARD_LINK = "hard link"
    EXCLUSIVE_RENAME = "exclusive rename"
    LOCK = "rename under a lock"


def write_atomically(path: Path, data: bytes, *, replace: bool) -> bool:
    """Write a file so that it is complete or absent, even after a crash.

    The data is written to a temporary file in the same directory, flushed to the disk, and moved into place. The
    directory is created if it does not exist.

    Args:
        path: Path of the file.
        data: Content of the file.
        replace: If True, an existing file is replaced. If False, an existing file is not changed, so if several
            processes write the file, the content of the first one to finish is kept.

    Returns:
        True if the file was written, False if it existed and ``replace`` is False.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = make_temporary_path(path.parent)
    try:
        _write_and_sync(temporary, data)
        was_written = _move(temporary, path, replace)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return was_written


def make_temporary_path(directory: Path) -> Path:
    """Return a new path that `is_temporary` recognizes.

    Args:
        directory: Directory of the temporary file.

    Returns:
        The path of a file that does not exist.
    """
    return directory / f".sparsedial-{secrets.token_hex(8)}.tmp"


def is_temporary(path: Path) -> bool:
    """Return True if a path has the form of the temporary names that `write_atomically` uses.

    Args:
        path: The path. Only its last component matters.

    Returns:
        True for a temporary name. A temporary file remains on the disk if the process that writes it is killed.

    Example:
        >>> is_temporary(make_temporary_path(Path("trials")))
        True
        >>> is_temporary(Path(".env.template"))
        False
    """
    return _TEMPORARY_NAME.fullmatch(path.name) is not None


def probe_directory(directory: Path) -> ExclusiveMove:
    """Write files to a directory as `write_atomically` does, and remove them.

    Args:
        directory: An existing directory.

    Returns:
        The way in which a new file is moved into place in this directory.

    Raises:
        OSError: Files cannot be written, synced, moved or removed there.
    """
    source = make_temporary_path(directory)
    target = make_temporary_path(directory)
    try:
        _write_and_sync(source, b"probe")
        move = move_exclusively(source, target)
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    _sync_directory(directory)
    return move


def move_exclusively(source: Path, target: Path) -> ExclusiveMove:
    """Move a file unless the target exists, so that of several processes exactly one succeeds.

    With a hard link, the source remains in place beside the target.

    Args:
        source: The file. It is synced to the disk already.
        target: The new path, in the same directory.

    Returns:
        The way in which the file was moved: the first one that the file system supports.

    Raises:
        FileExistsError: The target exists. It was not changed.
        OSError: The file cannot be moved, or the file system supports none of the ways.
    """
    try:
        os.link(source, target)
        return ExclusiveMove.HARD_LINK
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    try:
        rename_exclusively(source, target)
        return ExclusiveMove.EXCLUSIVE_RENAME
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    rename_with_lock(source, target)
    return ExclusiveMove.LOCK


def rename_exclusively(source: Path, target: Path) -> None:
    """Rename a file with Linux's ``renameat2``, which fails if the target exists.

    Args:
        source: The file.
        target: The new path.

    Raises:
        FileExistsError: The target exists.
        OSError: The rename failed, or the operating system or file system does not support it.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(source))
    if function(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(target))


def rename_with_lock(source: Path, target: Path) -> None:
    """Rename a file while holding the lock of its directory, after checking that the target does not exist.

    The operating system releases the lock of a process that dies. Whether the lock is seen by other machines depends
    on the file system.

    Args:
        source: The file.
        target: The new path, in the same directory.

    Raises:
        FileExistsError: The target exists.
        OSError: The rename failed, or the file system does not support locks.
    """
    import fcntl

    lock = os.open(source.parent / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists() or target.is_symlink():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        source.rename(target)
    finally:
        os.close(lock)


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 digest of a file's content.

    Args:
        path: Path of the file.

    Returns:
        The digest in hexadecimal.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(source: Path, target: Path, replace: bool) -> bool:
    """Move a file and return True, or return False if the target exists and may not be replaced."""
    if replace:
        source.replace(target)
        return True
    try:
        move_exclusively(source, target)
    except FileExistsError:
        return False
    return True


def _write_and_sync(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    """Flush a directory to the disk, so that a file moved into it is still there after a crash.

    Some network file systems cannot sync a directory. They write changes of directories at once.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
