"""Chart of the retention curves of a model."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from sparsedial.analysis.trial_set import EARLIER, GRID, SEARCH
from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.report.charts.common import (
    CURVE_COLUMNS,
    HAS_INTERVAL,
    SPARSITY_TITLE,
    Layers,
    Row,
    TitleAndSize,
    assemble_chart,
    chart_rows,
    drop_missing,
    name_panels,
    ordered_sites,
    percent_axis,
)
from sparsedial.report.charts.theme import TEXT_COLOUR, site_colour_scale, site_shape_scale

POINT_SIZES = {SEARCH: 48, GRID: 14, EARLIER: 14}
"""Size of a point by how its value of p was chosen."""

DENSE_POINT = {"sparsity": 0.0, "retention": 1.0, "low": None, "high": None, "kind": "dense"}
"""The point at which every curve begins."""

BAND_SHARE = 20
"""Largest distance of the ends of the y axis from retention 1, divided by the allowed loss ``1 - retain``."""

MIN_LOSS = 0.005
"""Lower limit of the allowed loss in the choice of the y axis, for values of ``retain`` close to 1."""

AXIS_MARGIN = 0.01


@dataclass(frozen=True)
class _Axes:
    """The limits of the axes.

    Attributes:
        right: Highest visible sparsity.
        bottom: Lowest visible retention.
        top: Highest visible retention.
        is_cut_off: True if a point or an interval lies below ``bottom``.
    """

    right: float
    bottom: float
    top: float
    is_cut_off: bool


def draw_retention(points: pd.DataFrame, critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """Draw retention over sparsity: a line per site through the dense model and the measured points.

    There is one panel per combination of model, rule, layers and task. A ring marks each critical sparsity, and a
    triangle marks one that is a lower bound.

    Args:
        points: Table ``Results.points``. Rows without a finite sparsity and retention are not drawn.
        critical: Table ``Results.critical``.
        retain: Share of the dense score that has to be kept, drawn as a horizontal line.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    numbers = ("sparsity", "retention", "low", "high")
    rows = chart_rows(points, (*CURVE_COLUMNS, "site", "chosen_by"), numbers)
    rows = drop_missing(rows, "sparsity", "retention")
    marks = drop_missing(chart_rows(critical, (*CURVE_COLUMNS, "site", "status"), ("sparsity",)), "sparsity")
    panels = name_panels(rows, marks, by=CURVE_COLUMNS)
    axes = _choose_axes(rows, marks, retain)
    data = _collect_data(rows, marks, panels, retain)
    layers = _layers(axes, ordered_sites(rows), tick_count=6 if len(panels) == 1 else 4)
    layout = TitleAndSize("Retention over sparsity", _notes(data, axes), height=300)
    return assemble_chart(layers, data, panels, layout)


def _choose_axes(rows: list[Row], marks: list[Row], retain: float) -> _Axes:
    """Choose limits of the axes at which the allowed loss stays visible, see `BAND_SHARE`."""
    floor = max(0.0, 1 - BAND_SHARE * max(1 - retain, MIN_LOSS))
    heights = []
    for row in rows:
        heights += [row["retention"], row["low"], row["high"]]
    known_heights = [height for height in heights if height is not None]
    lowest = min(known_heights)
    highest = max(known_heights)
    bottom = max(floor, min(lowest, 1 - 3 * (1 - retain)) - AXIS_MARGIN)
    top = min(max(highest, 1.0), 2 - floor) + AXIS_MARGIN
    visible = [row["sparsity"] for row in rows if row["retention"] >= bottom]
    visible += [mark["sparsity"] for mark in marks]
    last = max(row["sparsity"] for row in rows)
    right = max(min(1.08 * max(visible, default=1.0), 1.02 * last), 0.01)
    return _Axes(right, bottom, top, lowest < bottom)


def _collect_data(rows: list[Row], marks: list[Row], panels: list[str], retain: float) -> list[Row]:
    """Combine the threshold, the points, the dense points and the marks. Their ``kind`` tells them apart."""
    data: list[Row] = [{"panel": panel, "retention": retain, "kind": "threshold"} for panel in panels]
    data += [{**row, "kind": "point"} for row in rows]
    dense_points = {(row["panel"], row["site"]): {**row, **DENSE_POINT} for row in rows}
    data += dense_points.values()
    for mark in marks:
        if mark["panel"] in panels:
            kind = "bound" if mark["status"] == RIGHT_CENSORED else "critical"
            position = {"sparsity": mark["sparsity"], "retention": retain}
            data.append({"panel": mark["panel"], "site": mark["site"], **position, "kind": kind})
    return sorted(data, key=lambda row: (panels.index(row["panel"]), row.get("sparsity", -1.0)))


def _layers(axes: _Axes, sites: list[str], tick_count: int) -> Layers:
    x_scale = alt.Scale(domain=[0, axes.right], nice=False)
    x = alt.X("sparsity:Q", title=SPARSITY_TITLE, scale=x_scale, axis=percent_axis(tick_count))
    y = _retention_axis(axes)
    base = alt.Chart().encode(x=x, y=y, color=alt.Color("site:N", scale=site_colour_scale(sites)))
    line = base.transform_filter("datum.kind === 'point' || datum.kind === 'dense'")
    point = base.transform_filter("datum.kind === 'point'")
    threshold = alt.Chart().mark_rule(strokeDash=[5, 4], color=TEXT_COLOUR, strokeWidth=1.2).encode(y=y)
    intervals = point.transform_filter(HAS_INTERVAL).mark_rule(clip=True, strokeWidth=5, opacity=0.22)
    ring = base.mark_point(shape="circle", size=90, filled=False, fill="white", strokeWidth=2.2, opacity=1)
    bound = base.mark_point(shape="triangle-right", size=130, filled=False, fill="white", strokeWidth=2.2, opacity=1)
    size_scale = alt.Scale(domain=list(POINT_SIZES), range=list(POINT_SIZES.values()))
    return alt.layer(
        threshold.transform_filter("datum.kind === 'threshold'"),
        intervals.encode(y="low:Q", y2="high:Q"),
        line.mark_line(clip=True, strokeWidth=2),
        point.mark_point(clip=True, filled=True, opacity=1).encode(
            shape=alt.Shape("site:N", scale=site_shape_scale(sites)),
            size=alt.Size("chosen_by:N", scale=size_scale, legend=None),
        ),
        ring.transform_filter("datum.kind === 'critical'"),
        bound.transform_filter("datum.kind === 'bound'"),
    )


def _retention_axis(axes: _Axes) -> alt.Y:
    text_format = ".0%" if axes.top - axes.bottom > 0.05 else ".1%"
    return alt.Y(
        "retention:Q",
        title="retention",
        scale=alt.Scale(domain=[axes.bottom, axes.top], nice=False),
        axis=alt.Axis(format=text_format, tickCount=6),
    )


def _notes(data: list[Row], axes: _Axes) -> str:
    notes = ["rings mark the critical sparsities", "bars are 95% intervals"]
    if any(row["kind"] == "bound" for row in data):
        notes[0] += ", triangles those that are lower bounds"
    chosen_by = {row["chosen_by"] for row in data if row["kind"] == "point"}
    if chosen_by == {SEARCH}:
        notes.append("the points were chosen by the adaptive search")
    elif SEARCH in chosen_by:
        notes.append("large points were chosen by the adaptive search, small points are listed in the study")
    if axes.is_cut_off:
        notes.append(f"retention below {100 * axes.bottom:.0f}% is cut off")
    return "; ".join(notes)
