"""The report's files: atomic writes, CSV that a spreadsheet cannot run, JSON without NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsedial.disk import place
from sparsedial.errors import StoreError
from sparsedial.report.words import plain

FORMULA = ("=", "+", "-", "@")  # what makes a spreadsheet compute a cell


def write_atomically(path: Path, content: bytes) -> None:
    """Write the file under a temporary name beside it and move it into place; its folder is made.

    Raises:
        StoreError: it cannot be written; an older file of that name is then as it was.
    """
    try:
        place(path, content, replace=True)
    except OSError as error:
        raise StoreError(f"{plain(path)}: cannot be written: {error.strerror or error}") from error


def to_csv(frame: pd.DataFrame) -> bytes:
    r"""The frame as CSV (UTF-8): text holds no control characters, and none starts a formula (a ``'`` is put before).

    >>> to_csv(pd.DataFrame({"model": ["=1+1"], "value": [-0.5]}))
    b"model,value\n'=1+1,-0.5\n"
    """
    return frame.map(_cell).to_csv(index=False, lineterminator="\n").encode()


def to_json(value: object) -> bytes:
    """Strict JSON (ASCII): NaN, infinities and ``<NA>`` become null; DataFrames become lists of rows."""
    return (json.dumps(_jsonable(value), indent=1, allow_nan=False) + "\n").encode()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def _jsonable(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return [_jsonable(row) for row in value.to_dict("records")]
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)
