"""Shared parts of all charts: their rows and the names of their panels.

Names of models and tasks are passed to a chart only as data, never inside an expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import altair as alt
import pandas as pd

from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.row_order import sort_rows, unique_in_order
from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.ffn.feed_forward import BUILTIN_SITES
from sparsedial.report.formatting import sanitize_text
from sparsedial.study.requirement_text import describe_required
from sparsedial.tasks.task_names import AVERAGE

CURVE_COLUMNS = ("model", "rule", "layers", "task")
"""Columns that tell curves apart, besides the site."""

SPARSITY_TITLE = "sparsity (share dropped)"
CRITICAL_TITLE = "critical sparsity (share dropped)"


HAS_INTERVAL = "isValid(datum.low) && isValid(datum.high)"

Row = dict[str, Any]
Layers = alt.LayerChart | alt.FacetChart


def chart_rows(frame: pd.DataFrame, names: Sequence[str], numbers: Sequence[str]) -> list[Row]:
    """Return the rows of a table, in the order of the report, with values that are safe to draw.

    Args:
        frame: A table of the results.
        names: Columns with text. It is sanitized.
        numbers: Columns with numbers. Missing and infinite numbers become None.

    Returns:
        One dictionary per row.
    """
    rows = []
    for values in sort_rows(frame).to_dict("records"):
        row: Row = {}
        for name in names:
            row[name] = sanitize_text(values[name])
        for name in numbers:
            row[name] = finite_number(values[name])
        rows.append(row)
    return rows


def drop_missing(rows: Sequence[Row], *columns: str) -> list[Row]:
    """Return the rows in which none of the given values is missing.

    Args:
        rows: The rows.
        *columns: Names of the values that must not be None.

    Returns:
        The rows without missing values.
    """
    return [row for row in rows if None not in map(row.get, columns)]


def name_panels(*tables: list[Row], by: Sequence[str]) -> list[str]:
    """Store in every row the name of its panel, which consists of the columns in which the rows differ.

    Args:
        *tables: The rows of one or several tables. The first one decides which columns differ.
        by: Columns that tell panels apart.

    Returns:
        The names of the panels, in order. The name of a row's panel is stored as ``row["panel"]``.

    Raises:
        ValueError: The first table has no rows.
    """
    if not tables[0]:
        raise ValueError("nothing to draw: no row has finite values")
    differing = [name for name in by if len(distinct_values(tables[0], name)) > 1]
    for row in chain(*tables):
        titles = [title_part(name, row[name]) for name in differing]
        row["panel"] = " · ".join(titles)
    return distinct_values(tables[0], "panel")


def title_part(column: str, name: str) -> str:
    """Return the text for a value in the title of a panel or of a chart.

    Args:
        column: Column of the value.
        name: The value.

    Returns:
        The text.
    """
    if column == "layers":
        return f"layers {name}"
    if column == "task" and name == AVERAGE:
        return "task average"
    return name


def name_lines(rows: list[Row]) -> None:
    """Store in every row the name of its line: the site, and the vector if the site has several.

    Args:
        rows: The rows. The name is stored as ``row["line"]``.
    """
    for row in rows:
        row["line"] = row["site"]
        if row["vector"] != row["site"]:
            row["line"] = f"{row['site']}: {row['vector']}"


def distinct_values(rows: Sequence[Row], column: str) -> list[str]:
    """Return the distinct values of a column, in the order of the rows.

    Args:
        rows: The rows.
        column: Name of the column.

    Returns:
        The values as text.
    """
    return unique_in_order(row[column] for row in rows)


def ordered_sites(rows: Sequence[Row]) -> list[str]:
    """Return the sites of some rows in the order of `BUILTIN_SITES`.

    Args:
        rows: The rows.

    Returns:
        The names of the sites.
    """
    return unique_in_order((row["site"] for row in rows), BUILTIN_SITES)


def critical_note(retain: float) -> str:
    """Return the definition of critical sparsity for the subtitle of a chart.

    Args:
        retain: Share of the dense score that has to be kept.

    Returns:
        The definition.
    """
    return f"the highest sparsity that keeps {describe_required(retain)}"


def has_lower_bounds(rows: Sequence[Row]) -> bool:
    """Return True if a row is right-censored.

    Args:
        rows: Rows with a ``status``.

    Returns:
        True if at least one row is right-censored.
    """
    return any(row["status"] == RIGHT_CENSORED for row in rows)
