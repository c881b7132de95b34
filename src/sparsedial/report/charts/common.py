"""Shared parts of all charts: their rows, their panels, and how they are assembled.

Names of models and tasks are passed to a chart only as data, never inside an expression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import altair as alt
import pandas as pd

from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.labels import AVERAGE
from sparsedial.analysis.row_order import sort_rows, unique_in_order
from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.ffn.feed_forward import BUILTIN_SITES
from sparsedial.report.charts.theme import THEME
from sparsedial.report.formatting import format_retain, sanitize_text

CURVE_COLUMNS = ("model", "rule", "layers", "task")
"""Columns that tell curves apart, besides the site."""

SPARSITY_TITLE = "sparsity (share dropped)"
CRITICAL_TITLE = "critical sparsity (share dropped)"
NEAREST_POINT_NOTE = "each site at the measured p that is nearest to its critical sparsity"

CHART_WIDTH = 780
PANEL_WIDTHS = {1: CHART_WIDTH, 2: 350, 3: 215, 4: 160, 5: 130}
"""Width of a panel in pixels, by the number of panels that are side by side."""

MAX_COLUMNS_BY_TITLE_LENGTH = {14: 5, 30: 3, 48: 2}
"""Panels that fit side by side, by the length of the longest panel title in characters."""

CHARACTER_WIDTH = 7
MAX_LABEL_WIDTH = 260

IS_BOUND = f"datum.status === '{RIGHT_CENSORED}'"
IS_NO_BOUND = f"datum.status !== '{RIGHT_CENSORED}'"
HAS_INTERVAL = "isValid(datum.low) && isValid(datum.high)"

Row = dict[str, Any]
Layers = alt.LayerChart | alt.FacetChart


@dataclass(frozen=True)
class TitleAndSize:
    """Texts and dimensions of a chart.

    Attributes:
        heading: Title of the chart. The model is added if there is only one.
        subtitle: One line below the title, or several.
        height: Height of a panel in pixels, or of a row of a heat map.
        label_width: Width in pixels that is reserved for long labels of the y axis in each panel.
        max_columns: Largest number of panels side by side.
        title_anchor: Position of the title of a panel.
    """

    heading: str
    subtitle: str | list[str]
    height: int | alt.Step
    label_width: int = 0
    max_columns: int = 3
    title_anchor: Literal["start", "middle"] = "middle"


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


def label_width(rows: Sequence[Row], column: str) -> int:
    """Estimate the width in pixels of the longest label of an axis.

    Args:
        rows: The rows.
        column: Column with the labels.

    Returns:
        The width in pixels.
    """
    longest = max(len(row[column]) for row in rows)
    return min(CHARACTER_WIDTH * longest, MAX_LABEL_WIDTH)


def critical_note(retain: float) -> str:
    """Return the definition of critical sparsity for the subtitle of a chart.

    Args:
        retain: Share of the dense score that has to be kept.

    Returns:
        The definition.
    """
    return f"the highest sparsity that keeps {format_retain(retain)} of the dense score"


def interval_note(rows: Sequence[Row]) -> str:
    """Return the explanation of the interval bars, and of lower bounds if there are any.

    Args:
        rows: Rows with a ``label``.

    Returns:
        The explanation.
    """
    if any(row["label"].startswith("≥") for row in rows):
        return "bars are 95% intervals; ≥ is a lower bound: the lower end of a wide interval, or the last point"
    return "bars are 95% intervals"


def has_lower_bounds(rows: Sequence[Row]) -> bool:
    """Return True if a row is right-censored.

    Args:
        rows: Rows with a ``status``.

    Returns:
        True if at least one row is right-censored.
    """
    return any(row["status"] == RIGHT_CENSORED for row in rows)


def percent_axis(tick_count: int = 6) -> alt.Axis:
    """Return an axis with percentages.

    Args:
        tick_count: Approximate number of ticks.

    Returns:
        The axis.
    """
    return alt.Axis(format=".0%", tickCount=tick_count)


def assemble_chart(layers: Layers, rows: list[Row], panels: list[str], layout: TitleAndSize) -> alt.TopLevelMixin:
    """Combine layers, data and panels into a chart with a title and the theme of the report.

    Args:
        layers: The layers of one panel.
        rows: The data of all panels.
        panels: Names of the panels, in order.
        layout: Texts and dimensions.

    Returns:
        One plot, or one per panel. Panels are side by side if their titles are short enough.
    """
    data = alt.InlineData(values=list[Mapping[str, Any]](rows))
    columns = _count_columns(panels, layout.max_columns)
    width = PANEL_WIDTHS[columns] - layout.label_width
    title = alt.TitleParams(_full_heading(layout.heading, rows), subtitle=layout.subtitle)
    plot = layers.properties(width=width, height=layout.height, data=data)
    if len(panels) == 1:
        return plot.properties(title=title).configure(**THEME)
    header = alt.Header(title=None, labelLimit=width, labelAnchor=layout.title_anchor)
    facet = alt.Facet("panel:N", sort=panels, header=header)
    spacing = 34 if columns < 4 else 20
    return plot.facet(facet=facet, columns=columns, spacing=spacing).properties(title=title).configure(**THEME)


def _count_columns(panels: Sequence[str], max_columns: int) -> int:
    """Return the number of panels side by side. A number that fills all lines is preferred."""
    longest = max(map(len, panels))
    fitting = 1
    for length, count in MAX_COLUMNS_BY_TITLE_LENGTH.items():
        if longest <= length:
            fitting = count
            break
    most = min(len(panels), max_columns, fitting)
    for count in range(most, 1, -1):
        if len(panels) % count == 0:
            return count
    return most


def _full_heading(heading: str, rows: Sequence[Row]) -> str:
    models = {row["model"] for row in rows if "model" in row}
    if len(models) == 1:
        return f"{heading} · {models.pop()}"
    return heading
