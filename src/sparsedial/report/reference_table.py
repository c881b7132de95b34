"""The comparison with references as text: the table of the page, and lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sparsedial.analysis.estimates import finite_number, is_true
from sparsedial.analysis.references.comparison import INSIDE, NOT_MEASURED, OUTSIDE, OVERLAPPING
from sparsedial.analysis.references.records import CRITICAL_SPARSITY
from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.report.formatting import (
    MISSING,
    format_interval,
    format_number,
    format_point_interval,
    format_points,
    format_sparsity,
    sanitize_text,
)
from sparsedial.report.supplementary_tables import DetailTable

Row = Mapping[Any, Any]

APPROXIMATE_MARK = "~"
"""Mark of a number that is approximate or was read off a figure."""

COLUMNS = ("Site", "Task", "Here (95% CI)", "Reference", "Difference (points)", "Interpretation")

MEASURED = "value"
"""Column with the number that was measured here."""

RANGE_INTERPRETATIONS = {INSIDE: "inside the range", OUTSIDE: "outside the range", NOT_MEASURED: "not measured here"}
"""Interpretation of a number that has no interval here, against the range of a reference."""

INTERPRETATIONS = {
    INSIDE: "inside the interval",
    OVERLAPPING: "outside, but the intervals overlap",
    OUTSIDE: "outside the interval",
    NOT_MEASURED: "not measured here",
}


def make_reference_table(comparison: pd.DataFrame) -> DetailTable:
    """Make the table of differences from references.

    Args:
        comparison: Table of `compare_with_references`. Must not be empty.

    Returns:
        One row per value of a reference, grouped by model.
    """
    rows_by_group: dict[str, list[list[str]]] = {}
    names = _measured_names(comparison)
    for row in comparison.to_dict("records"):
        group = f"{_name(row, 'reference')} · {names[row['reference'], row['reference_model']]}"
        rows_by_group.setdefault(group, []).append([_name(row, "site"), _name(row, "task"), *_cells(row)])
    rows = []
    groups = []
    for group, members in rows_by_group.items():
        rows += members
        groups += [group] * len(members)
    description = (
        "Values of the references beside those measured here. The difference is the value here minus that of the "
        "reference, in percentage points, with the interval that follows from both. "
        f"{APPROXIMATE_MARK} marks a value that is approximate or was read off a figure. The places of the values and "
        "all numbers are in reference.csv."
    )
    return DetailTable("Comparison with references", description, COLUMNS, rows, groups)


def describe_comparison(comparison: pd.DataFrame) -> list[str]:
    """Return the comparison as lines of text.

    Args:
        comparison: Table of `compare_with_references`.

    Returns:
        One line per value of a reference.
    """
    lines = []
    for row in comparison.to_dict("records"):
        here, reference, difference, interpretation = _cells(row)
        names = [_describe_model(row)]
        for column in ("site", "vector", "task"):
            names.append(_name(row, column))
        distinct = dict.fromkeys(names)  # a site is named like its vector if it has only one
        subject = ", ".join(name for name in distinct if name != MISSING)
        line = f"{subject}: {here}; {_name(row, 'reference')}: {reference}; difference {difference}; {interpretation}"
        lines.append(line)
    return lines


def _cells(row: Row) -> list[str]:
    """Return the value here, that of the reference, their difference, and its interpretation."""
    texts = INTERPRETATIONS if row["quantity"] == CRITICAL_SPARSITY else RANGE_INTERPRETATIONS
    interpretation = texts[row["agreement"]]
    if isinstance(row["note"], str) and row["note"]:
        interpretation += f" ({sanitize_text(row['note'])})"
    here = _format_value(row, MEASURED, "low", "high")
    reference = _format_value(row, "reference_value", "reference_low", "reference_high")
    if not is_true(row["is_exact"]):
        reference = f"{APPROXIMATE_MARK}{reference}"
    return [here, reference, _format_difference(row), interpretation]


def _format_value(row: Row, value: str, low: str, high: str) -> str:
    if row["quantity"] != CRITICAL_SPARSITY:
        return _format_index(row, value, low, high)
    if value == MEASURED:
        is_lower_bound = row["status"] == RIGHT_CENSORED
        is_high_censored = is_true(row["high_censored"])
    else:
        is_lower_bound = is_true(row["reference_is_lower_bound"])
        is_high_censored = is_true(row["reference_high_censored"])
    text = format_sparsity(row[value], is_lower_bound)
    interval = format_interval(row[low], row[high], is_high_censored)
    if finite_number(row[low]) is None:
        return text
    if finite_number(row[value]) is None:
        return interval
    return f"{text} ({interval})"


def _format_index(row: Row, value: str, low: str, high: str) -> str:
    """Return a Jaccard index or its range."""
    if finite_number(row[value]) is None and finite_number(row[low]) is not None:
        return f"{format_number(row[low])}–{format_number(row[high])}"
    number = finite_number(row[value])
    return MISSING if number is None else f"{number:.2f}"


def _format_difference(row: Row) -> str:
    if row["quantity"] != CRITICAL_SPARSITY or row["agreement"] == NOT_MEASURED:
        return MISSING
    has_low, has_high = (finite_number(row[name]) is not None for name in ("difference_low", "difference_high"))
    if has_low and has_high:
        interval = format_point_interval(row["difference_low"], row["difference_high"])
    elif has_low:
        interval = f"at least {format_points(row['difference_low'])}"
    elif has_high:
        interval = f"at most {format_points(row['difference_high'])}"
    else:
        return MISSING  # both are lower bounds
    if finite_number(row["difference"]) is None:
        return interval
    return f"{format_points(row['difference'])} ({interval})"


def _measured_names(comparison: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return the description of each model of the references, also for its values that were not measured."""
    names: dict[tuple[str, str], str] = {}
    for row in comparison.to_dict("records"):
        key = (row["reference"], row["reference_model"])
        if key not in names or isinstance(row["model"], str):
            names[key] = _describe_model(row)
    return names


def _describe_model(row: Row) -> str:
    """Return the name of the model in the reference and, if it differs, the one here."""
    name = _name(row, "reference_model")
    measured = _name(row, "model")
    if measured in (MISSING, name):
        return name
    return f"{name} ({measured})"


def _name(row: Row, column: str) -> str:
    value = row[column]
    return sanitize_text(value) if isinstance(value, str) else MISSING
