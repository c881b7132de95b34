"""A directory of records that contain their own SHA-256, written atomically and read with verification."""

from __future__ import annotations

import errno
import json
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from sparsedial.errors import StorageError
from sparsedial.files import ExclusiveMove, probe_directory, write_atomically
from sparsedial.study.canonical_json import json_digest, to_canonical_json
from sparsedial.study.folder_layout import temporary_files
from sparsedial.study.records import SCHEMA_VERSION

MAX_TEMPORARY_AGE = 3600.0
"""Age in seconds from which a temporary file is considered abandoned."""


def decode_record(data: bytes, key: str) -> dict[str, Any] | None:
    """Return the record in a file, or None if the file is damaged.

    Args:
        data: Content of the file.
        key: Key under which the record was written.

    Returns:
        The record without its SHA-256. None if the key, the schema version or the SHA-256 is wrong.
    """
    try:
        record = json.loads(data)
        digest = record.pop("sha256")
        is_intact = digest == json_digest(record) and record["key"] == key and record["schema"] == SCHEMA_VERSION
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return record if is_intact else None


def encode_record(record: dict[str, Any]) -> bytes:
    """Return a record as canonical JSON that contains its own SHA-256. `decode_record` reads it back.

    Args:
        record: JSON object with an entry "key", which `decode_record` compares. The entries "schema" and "sha256" are
            added to a copy.
    """
    record = {**record, "schema": SCHEMA_VERSION}
    return to_canonical_json({**record, "sha256": json_digest(record)}).encode()


def read_file(path: Path) -> bytes | None:
    """Return the content of a file, or None if it does not exist.

    Args:
        path: The file.

    Raises:
        StorageError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}. Check its permissions and the disk.") from None


class RecordFolder:
    """Directory of files with records, which are verified when they are read.

    Args:
        folder: The directory. It need not exist for reading.
        repair: Move damaged files to ``quarantine/``. If False, damaged files are ignored. Defaults to True.
        exclusive_move: How new files are moved into place. Only `create` knows it. Defaults to None, unknown.
    """

    def __init__(self, folder: Path, *, repair: bool = True, exclusive_move: ExclusiveMove | None = None) -> None:
        self.folder = folder
        self.repair = repair
        self.exclusive_move = exclusive_move

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Open a directory for writing and remove abandoned temporary files.

        Args:
            folder: The directory. It is created if it does not exist.

        Returns:
            The opened directory.

        Raises:
            StorageError: The directory cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            move = probe_directory(folder)
            _remove_abandoned_files(folder)
        except OSError as error:
            raise StorageError(
                f"output directory {str(folder)!r} cannot be written: {error.strerror or error}. {_advice(error)}"
            ) from None
        return cls(folder, exclusive_move=move)

    def read_record(self, path: Path, key: str) -> dict[str, Any] | None:
        """Return a record. A damaged file is moved to ``quarantine/``.

        Args:
            path: The file.
            key: Key under which the record was written.

        Returns:
            The record. None if the file does not exist or was damaged.

        Raises:
            StorageError: The file cannot be read.
        """
        data = read_file(path)
        if data is None:
            return None
        record = decode_record(data, key)
        if record is None:
            self.quarantine(path)
        return record

    def quarantine(self, path: Path) -> None:
        """Move a file to ``quarantine/``. Do nothing if the directory was opened with ``repair=False``.

        Args:
            path: The file.

        Raises:
            StorageError: The file cannot be moved.
        """
        if not self.repair:
            return
        target = self.folder / "quarantine" / f"{path.name}.{secrets.token_hex(4)}"
        try:
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
        except FileNotFoundError:
            pass  # another process moved it
        except OSError as error:
            raise StorageError(f"{path}: damaged, and cannot be moved to quarantine/: {error.strerror}") from None

    def write_file(self, path: Path, data: bytes, replace: bool = False) -> bool:
        """Write a file under a temporary name and move it into place.

        Args:
            path: The file.
            data: Its content.
            replace: Replace an existing file. Defaults to False.

        Returns:
            True if ``data`` was written. False if the file existed already and was not replaced.

        Raises:
            StorageError: The file cannot be written.
        """
        try:
            return write_atomically(path, data, replace=replace)
        except OSError as error:
            raise StorageError(
                f"{path}: could not be written: {error.strerror or error}. Finished trials are kept."
            ) from error


def _remove_abandoned_files(folder: Path) -> None:
    for path in temporary_files(folder):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > MAX_TEMPORARY_AGE:
                path.unlink()


def _advice(error: OSError) -> str:
    """Return what the user can do if a directory cannot be written."""
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return "The path, or a part of it, is a file. Expected a directory. Choose another path with --out."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free space, or choose a directory on another disk with --out."
    if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
        return (
            "A study needs hard links, exclusive renames (renameat2) or locks (flock), so that no finished trial is "
            "ever replaced. Choose a directory on another file system with --out."
        )
    return "Choose another directory with --out."
