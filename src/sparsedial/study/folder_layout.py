"""The files of a study: which names they have, and which directories hold a study.

A study removes, moves and replaces only files with these names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sparsedial.errors import StorageError
from sparsedial.files import LOCK_NAME, is_temporary

SPEC_NAME = "study.json"
RESOLVED_NAME = "resolved.json"
LOCK_FILE_NAME = "study.lock"

ROOT_FILES = {SPEC_NAME, RESOLVED_NAME, LOCK_FILE_NAME}
"""Names of the files in the directory itself, apart from those of its report."""

REPORT_FOLDER = "figures"

KEY = "[0-9a-f]{64}"

RECORD_PATHS = {
    "trials": r"([0-9a-f]{2})/\1[0-9a-f]{62}\.json",
    "samples": rf"{KEY}(\.[0-9a-f]{{16}})?\.parquet",
    "prepared": rf"{KEY}\.json",
    "specs": rf"{KEY}\.json",
    "failed": rf"{KEY}/[0-9]+-[0-9a-f]{{8}}\.json",
    "conflicts": rf"{KEY}\.[0-9a-f]{{8}}\.json",
    "quarantine": rf"{KEY}\.json\.[0-9a-f]{{8}}",
}
"""Regular expression for the paths of the files in each directory of a study."""

SYSTEM_NAMES = {".DS_Store", "Thumbs.db", "desktop.ini", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
"""Names that operating systems create in directories, which do not make a directory the user's."""

MAX_LISTED_NAMES = 3


def record_files(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files of one kind that a study has written, sorted by path. Other files are omitted.

    Args:
        folder: Directory of the study.
        name: Name of the directory of the files, a key of `RECORD_PATHS`.

    Yields:
        Path: A file.
    """
    pattern = re.compile(RECORD_PATHS[name])
    for path in files_below(folder / name):
        if pattern.fullmatch(path.relative_to(folder / name).as_posix()):
            yield path


def temporary_files(folder: Path) -> Iterator[Path]:
    """Yield the temporary files in the directory of a study and in the directories that it has created there.

    Args:
        folder: Directory of the study.

    Yields:
        Path: A temporary file.
    """
    yield from filter(is_temporary, sorted(folder.iterdir()))
    for name in (*RECORD_PATHS, REPORT_FOLDER):
        yield from filter(is_temporary, files_below(folder / name))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files in a directory and its subdirectories, sorted by path. Symbolic links are not followed.

    Args:
        folder: The directory. It need not exist.

    Yields:
        Path: A file, hidden or not.
    """
    paths = []
    for parent, _, names in os.walk(folder):
        paths += [Path(parent, name) for name in names]
    yield from sorted(paths)


def holds_study(folder: Path) -> bool:
    """Return True if a directory holds a study: its ``study.json``, or records without it.

    Args:
        folder: The directory. It need not exist.

    Returns:
        True if a study has been written to the directory.
    """
    if (folder / SPEC_NAME).exists():
        return True
    return any(next(record_files(folder, name), None) is not None for name in RECORD_PATHS)


def check_holds_study(folder: Path) -> None:
    """Check that a directory holds a study.

    Args:
        folder: The directory.

    Raises:
        StorageError: There is no such directory, it cannot be read, or it holds no study.
    """
    try:
        if not folder.exists():
            problem = "no such directory"
        elif not folder.is_dir():
            problem = "a file, not a directory"
        elif holds_study(folder):
            return
        else:
            problem = f"not a study: it holds no {SPEC_NAME} and no trials"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise StorageError(f"{folder}: {problem}. Expected the output directory of a run.")


def check_output_folder(folder: Path) -> None:
    """Check that a directory is new, empty, or the directory of a study. Nothing in it is changed.

    Args:
        folder: The directory.

    Raises:
        StorageError: The directory cannot be read or holds other files.
    """
    try:
        if not folder.is_dir() or holds_study(folder):
            return
        others = sorted(path.name for path in folder.iterdir() if not _may_precede_study(path))
    except OSError as error:
        raise StorageError(
            f"output directory {str(folder)!r} cannot be read: {error.strerror}. Choose another directory with --out."
        ) from None
    if others:
        listed = ", ".join(others[:MAX_LISTED_NAMES])
        if len(others) > MAX_LISTED_NAMES:
            listed += f" and {len(others) - MAX_LISTED_NAMES} more"
        raise StorageError(
            f"output directory {str(folder)!r} holds files that are not of a study: {listed}. Expected a new "
            f"directory, an empty one, or one with a study. Choose another one, such as --out {folder / 'study'}"
        )


def _may_precede_study(path: Path) -> bool:
    """Return True for a file that a killed run, another process that is starting, or the system may have left."""
    return is_temporary(path) or path.name in {*SYSTEM_NAMES, LOCK_NAME, LOCK_FILE_NAME}
