"""Atomic writing of files, and SHA-256 digests of files."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

TEMPORARY_SUFFIX_LENGTH = 9  # a dot and eight hexadecimal digits


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
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        was_written = _move(temporary, path, replace)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return was_written


def is_temporary(path: Path) -> bool:
    """Return True if a path has the form of the temporary names that `write_atomically` uses.

    Args:
        path: The path. Only its last component matters.

    Returns:
        True for a temporary name. A temporary file remains on the disk if the process that writes it is killed.
    """
    return path.name.startswith(".") and len(path.suffix) == TEMPORARY_SUFFIX_LENGTH


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
        os.link(source, target)
    except FileExistsError:
        return False
    return True


def _sync_directory(directory: Path) -> None:
    """Flush a directory to the disk, so that a file moved into it is still there after a crash."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
