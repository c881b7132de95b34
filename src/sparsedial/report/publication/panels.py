"""The panels and the theme of figures for publications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from sparsedial.report.charts.common import Layers, Row
from sparsedial.report.charts.theme import AXIS_COLOUR, FONT, GRID_COLOUR, TEXT_COLOUR
from sparsedial.report.publication.series import SeriesStyle, make_data

PANEL_WIDTHS = {1: 300, 2: 205, 3: 132, 4: 96, 5: 74}
"""Width of a panel in points, by the number of panels side by side. All panels together fill a page of 500 points."""

MAX_COLUMNS_BY_TITLE_LENGTH = {13: 5, 18: 4, 26: 3, 40: 2}
"""Panels that fit side by side, by the length of the longest panel title in characters."""

NARROW_COLUMNS = 4
"""Number of panels side by side from which on a horizontal axis has few ticks."""

PANEL_SPACING = 20

THEME: dict[str, Any] = {
    "background": "white",
    "font": FONT,
    "padding": 4,
    "view": {"stroke": AXIS_COLOUR, "strokeWidth": 0.5},
    "axis": {
        "labelFontSize": 8, "titleFontSize": 9, "titleFontWeight": "normal", "titlePadding": 5, "tickSize": 3,
        "labelColor": TEXT_COLOUR, "titleColor": TEXT_COLOUR, "gridColor": GRID_COLOUR, "gridWidth": 0.5,
        "domain": False, "tickColor": AXIS_COLOUR, "tickWidth": 0.5, "labelLimit": 0, "titleLimit": 0,
        "labelFlush": False,
    },
    "legend": {
        "orient": "top", "title": None, "labelFontSize": 9, "labelColor": TEXT_COLOUR, "labelLimit": 0,
        "symbolSize": 40, "symbolStrokeWidth": 1.4, "columnPadding": 12, "rowPadding": 3, "offset": 6,
    },
    "header": {"title": None, "labelFontSize": 9, "labelColor": TEXT_COLOUR, "labelLimit": 0, "labelPadding": 4},
}  # fmt: skip


def percent_axis(panels: Sequence[str] = ()) -> alt.Axis:
    """Return an axis with percentages.

    Args:
        panels: Titles of the panels, for a horizontal axis. It has fewer ticks if the panels are narrow.
    """
    tick_count = 5
    if panels and count_columns(panels) >= NARROW_COLUMNS:
        tick_count = 2
    return alt.Axis(format=".0%", tickCount=tick_count, labelOverlap="greedy")


def upper_end(values: Sequence[float], step: float = 0.1) -> float:
    """Return the end of an axis of fractions: a multiple of a step, and at least one step.

    Args:
        values: All values on the axis.
        step: The step.

    Example:
        >>> round(upper_end([0.52, 0.61]), 2)
        0.7
    """
    steps = max(1, -int(-max(values, default=step) / step // 1))
    return steps * step


def count_columns(panels: Sequence[str], max_columns: int = 5) -> int:
    """Return the number of panels side by side. One panel less is preferred if it fills all rows.

    Args:
        panels: Titles of the panels.
        max_columns: Largest number to return.
    """
    longest = max(map(len, panels))
    fitting = 1
    for length, count in MAX_COLUMNS_BY_TITLE_LENGTH.items():
        if longest <= length:
            fitting = count
            break
    most = min(len(panels), max_columns, fitting)
    if len(panels) % most and most > 2 and len(panels) % (most - 1) == 0:
        return most - 1
    return most


def arrange_panels(
    layers: Layers,
    rows: Sequence[Row],
    styles: Sequence[SeriesStyle],
    panels: Sequence[str],
    height: int,
    max_columns: int = 5,
) -> alt.TopLevelMixin:
    """Combine layers, data and panels into a chart.

    Args:
        layers: The layers of one panel.
        rows: The data of all panels. ``panel`` is the panel of a row.
        styles: The styles of the series.
        panels: Titles of the panels, in order.
        height: Height of a panel in points.
        max_columns: Largest number of panels side by side.

    Returns:
        One plot, or one per panel.
    """
    data = make_data(rows, styles)
    columns = count_columns(panels, max_columns)
    plot = layers.properties(width=PANEL_WIDTHS[columns], height=height, data=data)
    if len(panels) == 1:
        return plot.configure(**THEME)
    facet = alt.Facet("panel:N", sort=list(panels), header=alt.Header(title=None))
    chart = plot.facet(facet=facet, columns=columns, spacing=PANEL_SPACING)
    if len(panels) % columns:  # Vega-Lite would draw the axes of the panels that are missing in the last row
        chart = chart.resolve_axis(x="independent")
    return chart.configure(**THEME)
