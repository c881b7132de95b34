"""Figures of differences: a point with its 95% interval for each row and series, and a panel for each site or rule."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from sparsedial.report.charts.theme import AXIS_COLOUR
from sparsedial.report.publication.panels import THEME, percent_axis
from sparsedial.report.publication.series import INTERVAL_WIDTH, POINT_SIZE, encode_series, series_styles

SERIES_HEIGHT = 7
ROW_PADDING = 5
PANEL_WIDTH = 150
COLUMNS = 3
SPACING = 30
"""Distance of panels in pixels. Labels at the ends of two horizontal axes fit into it."""


def draw_differences(
    table: pd.DataFrame, panels: Sequence[str], rows: Sequence[str], series: Sequence[str], title: str
) -> alt.TopLevelMixin:
    """Draw differences with their 95% intervals.

    Args:
        table: Numbers with the columns ``panel``, ``row``, ``series``, ``difference``, ``low`` and ``high``. A
            difference may be missing; its interval is then drawn alone.
        panels: Titles of the panels, in order.
        rows: Names of the rows, from top to bottom.
        series: Names of the series, in order.
        title: Title of the horizontal axis.
    """
    columns = ["panel", "row", "series", "difference", "low", "high"]
    values = table[columns].astype(object).where(table[columns].notna(), None).to_dict("records")
    styles = list(series_styles(series).values())
    channels = encode_series(styles)
    height = len(rows) * (SERIES_HEIGHT * len(series) + ROW_PADDING)
    y = alt.Y("row:N", title=None, sort=list(rows), axis=alt.Axis(ticks=False, grid=False))
    offset = alt.YOffset("series:N", scale=alt.Scale(domain=list(series)))
    base = alt.Chart().encode(y=y, yOffset=offset)
    zero = alt.Chart().mark_rule(color=AXIS_COLOUR, strokeDash=[3, 2]).encode(x=alt.datum(0))
    intervals = base.mark_rule(strokeWidth=INTERVAL_WIDTH).encode(
        x=alt.X("low:Q", title=title, axis=percent_axis()), x2="high:Q", **channels.interval
    )
    points = base.transform_filter("isValid(datum.difference)").mark_point(filled=True, size=POINT_SIZE, opacity=1)
    layers = alt.layer(zero, intervals, points.encode(x=alt.X("difference:Q", title=title), **channels.mark))
    plot = layers.properties(width=PANEL_WIDTH, height=height, data=alt.Data(values=values))
    facet = alt.Facet("panel:N", sort=list(panels), header=alt.Header(title=None))
    return plot.facet(facet=facet, columns=min(COLUMNS, len(panels)), spacing=SPACING).configure(**THEME)
