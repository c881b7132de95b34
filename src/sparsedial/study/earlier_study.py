"""The files of an earlier run that a run in the same directory replaces before its first trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sparsedial.errors import StorageError
from sparsedial.study.folder_layout import RESOLVED_NAME, SPEC_NAME, record_files
from sparsedial.study.store import Store
from sparsedial.study.verified_records import read_file

RECORDS = ("failed", "specs")
"""Records that a run writes or removes before its first trial. Trials and examples are only ever added."""


class EarlierStudy:
    """Content of the files that describe the study in a directory, so that they can be put back.

    Args:
        store: Directory of the study.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: Mapping[Path, bytes] = {}
        if (store.folder / SPEC_NAME).exists():
            self._files = _read_files(store.folder)

    def restore(self) -> bool:
        """Put the files back as they were.

        Returns:
            True if there was an earlier study. Otherwise nothing is changed.
        """
        if not self._files:
            return False
        present = _read_files(self._store.folder)
        for path, data in self._files.items():
            if present.get(path) != data:
                self._store.write_file(path, data, replace=True)
        for path in present:
            if path not in self._files:
                _remove(path)
        return True


def _read_files(folder: Path) -> dict[Path, bytes]:
    paths = [folder / SPEC_NAME, folder / RESOLVED_NAME]
    for name in RECORDS:
        paths += record_files(folder, name)
    contents = {}
    for path in paths:
        data = read_file(path)
        if data is not None:
            contents[path] = data
    return contents


def _remove(path: Path) -> None:
    """Remove a file, and the directories that are then empty."""
    try:
        path.unlink(missing_ok=True)
        for parent in list(path.parents)[:2]:
            if any(parent.iterdir()):
                break
            parent.rmdir()
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed: {error.strerror}") from None
