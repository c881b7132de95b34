"""The files of a report: atomic writes, CSV without spreadsheet formulas, and JSON without NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsedial.errors import StorageError
from sparsedial.files import write_atomically
from sparsedial.report.formatting import sanitize_text

FORMULA_PREFIXES = ("=", "+", "-", "@")
"""First characters of a cell that a spreadsheet evaluates as a formula."""


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically: to a temporary file in the same directory, which then replaces it.

    Args:
        path: Path of the file. Its directory is created if it is missing.
        content: The bytes to write.

    Raises:
        StorageError: The file cannot be written. An older file of that name is left unchanged.
    """
    try:
        write_atomically(path, content, replace=True)
    except OSError as error:
        raise StorageError(f"{sanitize_text(path)}: cannot be written: {error.strerror or error}") from error


def to_csv(frame: pd.DataFrame) -> bytes:
    r"""Return a table as CSV that holds no control characters and no formulas.

    Args:
        frame: The table.

    Returns:
        UTF-8 text. Text that a spreadsheet would evaluate as a formula gets the prefix ``'``.

    Example:
        >>> to_csv(pd.DataFrame({"model": ["=1+1"], "score": [-0.5]}))
        b"model,score\n'=1+1,-0.5\n"
    """
    return frame.map(_neutralize_cell).to_csv(index=False, lineterminator="\n").encode()


def to_json(value: object) -> bytes:
    """Return a value as strict JSON.

    Args:
        value: Dictionaries, lists, tables, numbers and text. Tables become lists of rows.

    Returns:
        ASCII text. NaN, infinities and ``<NA>`` become null.
    """
    return (json.dumps(_to_json_value(value), indent=1, allow_nan=False) + "\n").encode()


def _neutralize_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = sanitize_text(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA_PREFIXES) else text


def _to_json_value(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return _to_json_value(value.to_dict("records"))
    if isinstance(value, dict):
        return {str(key): _to_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_to_json_value, value))
    return _to_json_scalar(value)


def _to_json_scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bool | int | float | str):
        return value
    return str(value)
