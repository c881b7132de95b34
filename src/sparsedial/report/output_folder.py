"""Protection of a user's files in the output directory of a report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sparsedial.errors import StorageError
from sparsedial.report.formatting import sanitize_text
from sparsedial.study.folder_layout import holds_study

PAGE_NAME = "report.html"
RESULTS_NAME = "results.json"
PAGE_HEAD_BYTES = 4096  # the head of a page begins with `GENERATOR`

GENERATOR = '<meta name="generator" content="sparsedial">'
"""HTML by which a page is recognized."""


def check_report_folder(folder: Path, names: Iterable[str]) -> None:
    """Check that a report replaces only files of a study or of an earlier report. Nothing is changed.

    Args:
        folder: Output directory of the report.
        names: Relative paths of the files that the report writes.

    Raises:
        StorageError: The directory holds another file of one of these names, or it cannot be read.
    """
    try:
        if holds_study(folder) or _holds_report(folder):
            return
    except OSError as error:
        raise StorageError(f"{sanitize_text(folder)}: cannot be read: {error.strerror}") from None
    check_no_foreign_files(folder, names, "report")


def check_report_page(path: Path) -> None:
    """Check that a page alone replaces only an earlier page. Nothing is changed.

    Args:
        path: The file. It need not exist.

    Raises:
        StorageError: It is another file, or it cannot be read.
    """
    try:
        if not path.exists():
            return
        with path.open("rb") as file:
            if GENERATOR.encode() in file.read(PAGE_HEAD_BYTES):
                return
    except OSError as error:
        raise StorageError(f"{sanitize_text(path)}: cannot be read: {error.strerror}") from None
    raise StorageError(
        f"{sanitize_text(path)}: exists and is not of an earlier report. Nothing was written. Choose another name."
    )


def check_no_foreign_files(folder: Path, names: Iterable[str], kind: str = "export") -> None:
    """Check that a directory has no files of some names. Nothing is changed.

    Args:
        folder: The directory. It need not exist.
        names: Relative paths of the files that are about to be written.
        kind: What the files belong to, for the error message.

    Raises:
        StorageError: The directory holds a file of one of these names, or it cannot be read.
    """
    try:
        for name in names:
            path = folder / name
            if path.exists() or path.is_symlink():
                raise StorageError(
                    f"{sanitize_text(path)}: exists and is not of an earlier {kind}. Nothing was written. "
                    "Choose a new or empty directory with --out."
                )
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{sanitize_text(folder)}: cannot be read: {error.strerror}") from None


def _holds_report(folder: Path) -> bool:
    """Return True if the directory holds the ``results.json`` of a report."""
    try:
        results = json.loads((folder / RESULTS_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(results, dict) and {"schema", "critical", "points"} <= results.keys()
