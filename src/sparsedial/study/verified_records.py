"""A directory of records that contain their own SHA-256, written atomically and read with verification."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from sparsedial.errors import StorageError
from sparsedial.files import is_temporary, write_atomically
from sparsedial.study.canonical_json import json_digest, to_canonical_json
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


class RecordFolder:
    """Directory of files with records, which are verified when they are read.

    Args:
        folder: The directory. It need not exist for reading.
        repair: Move damaged files to ``quarantine/``. If False, damaged files are ignored. Defaults to True.
    """

    def __init__(self, folder: Path, *, repair: bool = True) -> None:
        self.folder = folder
        self.repair = repair

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
            probe = folder / f".probe.{secrets.token_hex(4)}"
            probe.write_bytes(b"ok")
            probe.unlink()
            _remove_abandoned_files(folder)
        except OSError as error:
            raise StorageError(
                f"output directory {str(folder)!r} cannot be written: {error.strerror or error}"
            ) from None
        return cls(folder)

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
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from None
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
    for path in filter(is_temporary, folder.glob("**/.*")):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > MAX_TEMPORARY_AGE:
                path.unlink()
