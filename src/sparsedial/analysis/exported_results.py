"""Results that were written as CSV files or as ``results.json``, read without their trials."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sparsedial.analysis.estimates import AT_CHANCE, TOO_FEW_EXAMPLES, finite_number
from sparsedial.analysis.json_cells import parse_whole_numbers
from sparsedial.analysis.results import Results
from sparsedial.curves.critical import RETAIN, RIGHT_CENSORED
from sparsedial.errors import SpecError, StorageError
from sparsedial.study.dataclass_parsing import raise_problems

JSON_NAME = "results.json"
CRITICAL_NAME = "critical.csv"
SCHEMAS = (2,)
"""Versions of ``results.json`` that can be read."""

STATUSES = ("crossed", RIGHT_CENSORED, "left-censored", AT_CHANCE, TOO_FEW_EXAMPLES)

REQUIRED_COLUMNS = {
    "critical": ("model", "family", "parameters", "active_parameters", "site", "rule", "layers", "task",
                 "sparsity", "low", "high", "status", "high_censored"),
    "points": ("model", "site", "rule", "layers", "task", "p", "sparsity", "score", "dense_score", "retention",
               "low", "high"),
    "experts": ("model", "rule", "layers", "task", "site", "p", "vector", "phase", "layer", "expert", "sparsity"),
    "steps": ("model", "rule", "layers", "task", "site", "vector", "step", "layer", "sparsity"),
    "step_overlap": ("model", "rule", "layers", "task", "site", "vector", "state", "step", "overlap_previous",
                     "overlap_first"),
    "generated": ("model", "rule", "layers", "task", "site", "p", "generated_tokens", "limit_hit"),
    "layers": ("model", "rule", "layers", "task", "site", "vector", "layer", "sparsity"),
}  # fmt: skip
"""Tables that are read, with the columns that they must have."""

FRACTIONS = {"critical": ("sparsity", "low", "high"), "points": ("sparsity",)}
"""Columns whose numbers lie between 0 and 1."""

NAME_COLUMNS = ("model", "family", "site", "rule", "task", "metric", "vector", "phase", "state")
"""Columns of CSV files that hold text, also if it looks like a number or like a missing value."""

MAX_PROBLEMS = 10


def holds_exported_results(path: Path) -> bool:
    """Return True for a directory with `JSON_NAME` or `CRITICAL_NAME`, and for a CSV file.

    Args:
        path: A file or a directory. It need not exist.
    """
    if path.is_dir():
        return (path / JSON_NAME).is_file() or (path / CRITICAL_NAME).is_file()
    return path.is_file() and path.suffix == ".csv"


def read_exported_results(path: Path) -> Results:
    """Read the tables of written results.

    Args:
        path: A directory with ``results.json`` or ``critical.csv``, or a CSV file of critical sparsities.

    Returns:
        The tables that charts and comparisons need. CSV files do not state the required retention: it is taken to be
        99%.

    Raises:
        StorageError: A file cannot be read.
        SpecError: A table has no rows, misses columns or holds invalid values. There is one line per problem.
    """
    if path.is_dir() and (path / JSON_NAME).is_file():
        return parse_results(load_json(path / JSON_NAME), path / JSON_NAME)
    if not path.is_dir():
        return _make_results({"critical": _read_csv(path)}, {"critical": str(path)}, RETAIN, path)
    tables = {}
    sources = {}
    for name in REQUIRED_COLUMNS:
        file = path / f"{name}.csv"
        if file.is_file():
            tables[name] = _read_csv(file)
            sources[name] = str(file)
    return _make_results(tables, sources, RETAIN, path)


def parse_results(data: object, path: Path) -> Results:
    """Read the tables in the content of a ``results.json``.

    Args:
        data: Parsed JSON.
        path: Path of the file, for error messages.

    Returns:
        The tables that charts and comparisons need.

    Raises:
        SpecError: The content is not that of a ``results.json``, or a table holds invalid values.
    """
    if not isinstance(data, dict) or "schema" not in data:
        raise SpecError(
            f"{path}: neither a {JSON_NAME} of a report nor a reference file: it has no schema and no format"
        )
    if data["schema"] not in SCHEMAS:
        raise SpecError(f"{path}: schema {data['schema']!r}; expected one of {', '.join(map(str, SCHEMAS))}")
    retain = finite_number(data.get("retain"))
    if retain is None or not 0.0 < retain <= 1.0:
        raise SpecError(f"{path}: retain: expected a share in (0, 1], got {data.get('retain')!r}")
    tables = {}
    sources = {}
    for name in REQUIRED_COLUMNS:
        rows = data.get(name, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise SpecError(f"{path}: {name}: expected a list of rows")
        if rows:
            tables[name] = pd.DataFrame(rows)
            sources[name] = f"{path}: {name}"
    return _make_results(tables, sources, retain, path)


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: Path of the file.

    Returns:
        The parsed JSON.

    Raises:
        StorageError: The file cannot be read.
        SpecError: The file is not JSON.
    """
    try:
        return json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not JSON: {error}") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from None


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a table. Names stay text, also "NA" and "007", and selections of layers are lists, as in `JSON_NAME`."""
    data = _read_bytes(path)
    try:
        table = pd.read_csv(io.BytesIO(data))
        names = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, usecols=NAME_COLUMNS.__contains__)
    except (ValueError, UnicodeDecodeError) as error:  # errors of pandas' parser are ValueErrors
        raise SpecError(f"{path}: not a CSV table: {error}") from None
    table[names.columns] = names
    if "layers" in table:
        table = table.assign(layers=pd.Series(map(_parse_layers, table["layers"]), index=table.index, dtype=object))
    return table


def _parse_layers(text: object) -> object:
    """Return the indices of layers that are a list as text, such as ``[0, 1]``. Anything else is returned as it is."""
    layers = parse_whole_numbers(text)
    return text if layers is None else layers


def _make_results(tables: Mapping[str, pd.DataFrame], sources: Mapping[str, str], retain: float, path: Path) -> Results:
    """Check the tables and collect them. Tables that are missing are empty."""
    if "critical" not in tables or tables["critical"].empty:
        raise SpecError(f"{path}: no critical sparsities; expected the {CRITICAL_NAME} or {JSON_NAME} of a report")
    problems: list[str] = []
    for name, table in tables.items():
        for problem in _table_problems(name, table):
            problems.append(f"{sources[name]}: {problem}")
    if len(problems) > MAX_PROBLEMS:
        problems = [*problems[:MAX_PROBLEMS], f"{path}: {len(problems) - MAX_PROBLEMS} more problems"]
    raise_problems(problems)
    frames: dict[str, Any] = dict.fromkeys(REQUIRED_COLUMNS, pd.DataFrame()) | dict(tables)
    return Results(**frames, retain=retain, provenance={}, title=f"Results in {path}")


def _table_problems(name: str, table: pd.DataFrame) -> list[str]:
    missing = [column for column in REQUIRED_COLUMNS[name] if column not in table]
    if missing:
        return [f"missing columns: {', '.join(missing)}. Write the report again with this version of sparsedial."]
    problems = []
    for column in FRACTIONS.get(name, ()):
        for row, value in enumerate(table[column], start=2):
            number = finite_number(value)
            is_missing = value is None or value != value or value == ""
            if not is_missing and (number is None or not 0.0 <= number <= 1.0):
                problems.append(f"row {row}, {column}: expected a fraction from 0 to 1, got {value!r}")
    if name == "critical":
        for row, status in enumerate(table["status"], start=2):
            if status not in STATUSES:
                problems.append(f"row {row}, status: expected one of {', '.join(STATUSES)}, got {status!r}")
    return problems
