"""The numbers of a report as files: ``results.json`` and a CSV file for each table."""

from __future__ import annotations

from pathlib import Path

from sparsedial.analysis.results import Results
from sparsedial.report.csv_and_json import to_csv, to_json, write_file
from sparsedial.report.output_folder import RESULTS_NAME, check_report_folder

SCHEMA = 2
"""Version of ``results.json``."""

REQUIRED_TABLES = ("critical", "points", "layers")
"""Tables that are written even if they are empty."""

OPTIONAL_TABLES = (
    "trends",
    "differences",
    "experts",
    "steps",
    "step_overlap",
    "generated",
    "segments",
    "cost",
    "changes",
    "changed_examples",
    "changed_tokens",
    "reference",
)


def write_tables(results: Results, folder: Path) -> None:
    """Write ``results.json`` and the CSV files, without a page and figures.

    Args:
        results: The results of one or several studies.
        folder: The directory. It is created if it is missing.

    Raises:
        StorageError: A file cannot be written, or would replace a file that is not of a report.
    """
    check_report_folder(folder, list_table_files(results))
    write_table_files(results, folder)


def write_table_files(results: Results, folder: Path) -> None:
    """Write the files of a directory that was checked before.

    Args:
        results: The results of one or several studies.
        folder: The directory. It is created if it is missing.
    """
    write_file(folder / RESULTS_NAME, to_json(results_object(results)))
    for name in list_tables(results):
        write_file(folder / f"{name}.csv", to_csv(getattr(results, name)))


def results_object(results: Results) -> dict[str, object]:
    """Return the content of ``results.json``, in which tables are not yet lists of rows.

    Args:
        results: The results of one or several studies.
    """
    return {"schema": SCHEMA, **vars(results)}


def list_tables(results: Results) -> list[str]:
    """Return the names of the tables that become CSV files.

    Args:
        results: The results of one or several studies.
    """
    optional = [name for name in OPTIONAL_TABLES if not getattr(results, name).empty]
    return [*REQUIRED_TABLES, *optional]


def list_table_files(results: Results) -> list[str]:
    """Return the names of the files.

    Args:
        results: The results of one or several studies.
    """
    return [RESULTS_NAME, *(f"{name}.csv" for name in list_tables(results))]
