"""Charts of diffusion models over their denoising steps: overlap of kept sets, and sparsity by token state."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from sparsedial.analysis.breakdowns import ANY_STATE
from sparsedial.report.charts.common import (
    CURVE_COLUMNS,
    NEAREST_POINT_NOTE,
    SPARSITY_TITLE,
    Row,
    TitleAndSize,
    assemble_chart,
    chart_rows,
    drop_missing,
    name_lines,
    name_panels,
)
from sparsedial.report.charts.theme import SERIES_COLOURS

OVERLAP_SERIES = {"with the previous step": "overlap_previous", "with the first step": "overlap_first"}
"""Column of each line, by the name of the line."""

TOKEN_STATES = ("masked", "revealed")


@dataclass(frozen=True)
class _ValueAxis:
    """The y axis of a chart over the steps."""

    title: str
    format: str
    scale: alt.Scale


def draw_overlap(step_overlap: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw the Jaccard index of the kept sets with those of the previous step and of the first one.

    There is one panel per site and vector.

    Args:
        step_overlap: Table ``Results.step_overlap``.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = _rows(step_overlap[step_overlap["state"] == ANY_STATE], *OVERLAP_SERIES.values())
    points = []
    for row in rows:
        for series, column in OVERLAP_SERIES.items():
            points.append({**row, "series": series, "value": row[column]})
    axis = _ValueAxis("Jaccard index", ".1f", alt.Scale(domain=[0.0, 1.0]))
    return _draw_lines(points, list(OVERLAP_SERIES), "Overlap of kept sets", axis)


def draw_token_states(step_overlap: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw the sparsity of masked and of revealed tokens over the steps.

    There is one panel per site and vector.

    Args:
        step_overlap: Table ``Results.step_overlap``.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = _rows(step_overlap[step_overlap["state"] != ANY_STATE], "sparsity")
    points = [{**row, "series": row["state"], "value": row["sparsity"]} for row in rows]
    axis = _ValueAxis(SPARSITY_TITLE, ".0%", alt.Scale(zero=False))
    return _draw_lines(points, list(TOKEN_STATES), "Sparsity of masked and revealed tokens", axis)


def _rows(step_overlap: pd.DataFrame, *numbers: str) -> list[Row]:
    rows = chart_rows(step_overlap, (*CURVE_COLUMNS, "site", "vector", "state"), ("step", *numbers))
    name_lines(rows)
    return rows


def _draw_lines(points: list[Row], series: list[str], heading: str, axis: _ValueAxis) -> alt.TopLevelMixin:
    rows = drop_missing(points, "step", "value")
    panels = name_panels(rows, by=(*CURVE_COLUMNS, "line"))
    step_axis = alt.Axis(format="d", tickMinStep=1)
    base = alt.Chart().encode(
        x=alt.X("step:Q", title="denoising step", axis=step_axis, scale=alt.Scale(nice=False)),
        y=alt.Y("value:Q", title=axis.title, scale=axis.scale, axis=alt.Axis(format=axis.format, tickCount=6)),
        color=alt.Color(
            "series:N",
            scale=alt.Scale(domain=series, range=list(SERIES_COLOURS[: len(series)])),
            legend=alt.Legend(symbolType="stroke", symbolSize=400, symbolStrokeWidth=2.5),
        ),
    )
    layers = alt.layer(base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=18, opacity=1))
    subtitle = f"{NEAREST_POINT_NOTE}; means over layers and tokens"
    return assemble_chart(layers, rows, panels, TitleAndSize(heading, subtitle, height=220))
