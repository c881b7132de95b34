"""Figures of retention over sparsity: one per model, and one that compares models or rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sparsedial.analysis.trial_set import EARLIER, GRID, SEARCH
from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.report.charts.common import (
    CURVE_COLUMNS,
    SPARSITY_TITLE,
    Row,
    chart_rows,
    distinct_values,
    drop_missing,
    name_panels,
    ordered_sites,
    title_part,
)
from sparsedial.report.figures.row_groups import column_values, group_rows, known_numbers, model_suffix, sort_by
from sparsedial.report.formatting import format_interval, format_number, format_percent, format_sparsity
from sparsedial.report.plots.figure import Figure, panel_width
from sparsedial.report.plots.line_panel import Line, LinePlot, Point, Ring, draw_line_panel
from sparsedial.report.plots.palette import LineStyle, series_styles, site_styles
from sparsedial.report.plots.plot_frame import Axis, format_share
from sparsedial.study.requirement_text import describe_required, is_by_perplexity

RADII = {SEARCH: 4.0, GRID: 2.6, EARLIER: 2.6}
"""Radius of a point in pixels by how its value of p was chosen."""

RING_SHAPES = {False: "circle", True: "triangle-right"}
"""Shape of an open mark by whether it is a lower bound."""

BAND_SHARE = 20
"""Largest distance of the ends of the y axis from retention 1, divided by the allowed loss ``1 - retain``."""

MIN_LOSS = 0.005
"""Lower limit of the allowed loss in the choice of the y axis, for values of ``retain`` close to 1."""

AXIS_MARGIN = 0.01
HEIGHT = 310


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


def make_retention_figure(
    name: str, points: pd.DataFrame, critical: pd.DataFrame, retain: float, subject: str = "site"
) -> Figure:
    """Draw retention over sparsity, from the dense model through the measured points.

    There is one panel per combination of model, site, rule, layers and task, without the one that tells the lines of a
    panel apart. An open ring marks each critical sparsity, and an open triangle one that is a lower bound.

    Args:
        name: Name of the figure.
        points: Table ``Results.points``. Rows without a finite sparsity and retention are not drawn.
        critical: Table ``Results.critical``.
        retain: Share of the dense score that has to be kept, drawn as a horizontal line.
        subject: Column that tells the lines of a panel apart. Defaults to the site.

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    columns = (*CURVE_COLUMNS, "site")
    rows = chart_rows(points, (*columns, "chosen_by"), ("sparsity", "retention", "low", "high", "p", "score"))
    rows = drop_missing(rows, "sparsity", "retention")
    marks = drop_missing(chart_rows(critical, (*columns, "status"), ("sparsity", "low", "high")), "sparsity")
    panels = name_panels(rows, marks, by=tuple(filter(subject.__ne__, columns)))
    legend = _choose_styles(rows, subject)
    axes = _choose_axes(rows, marks, retain)
    drawn = []
    marks_by_panel = group_rows(marks, "panel")
    for panel, members in group_rows(rows, "panel").items():
        panel_marks = marks_by_panel.get(panel, [])
        by_name = group_rows(sort_by(members, "sparsity"), subject)
        marks_by_name = group_rows(panel_marks, subject)
        lines = []
        for key in legend:
            lines.append(_make_line(key, by_name.get(key, []), marks_by_name.get(key, []), retain))
        plot = LinePlot(panel, _describe(panel, subject, panel_marks), *_make_axes(axes), tuple(lines), retain)
        drawn.append(draw_line_panel(plot, legend, panel_width(len(panels)), HEIGHT))
    heading = f"Retention over sparsity{model_suffix(rows)}"
    if subject != "site":
        heading = f"Retention of each {subject}"
    return Figure(name, heading, _notes(rows, marks, axes, retain), tuple(drawn), legend)


def _choose_styles(rows: Sequence[Row], subject: str) -> dict[str, LineStyle]:
    if subject == "site":
        return site_styles(ordered_sites(rows))
    return series_styles(distinct_values(rows, subject))


def _make_line(name: str, rows: Sequence[Row], marks: Sequence[Row], retain: float) -> Line:
    if not rows:
        return Line(name, ())
    points = [Point(0.0, 1.0)]
    for row in rows:
        radius = RADII.get(row["chosen_by"], RADII[SEARCH])
        tooltip = _describe_point(row, name)
        points.append(Point(row["sparsity"], row["retention"], tooltip, row["low"], row["high"], radius))
    rings = []
    for mark in marks:
        is_bound = mark["status"] == RIGHT_CENSORED
        text = f"{name} · critical sparsity {format_sparsity(mark['sparsity'], is_bound)}"
        interval = format_interval(mark["low"], mark["high"])
        rings.append(Ring(mark["sparsity"], retain, _add_interval(text, interval), RING_SHAPES[is_bound]))
    return Line(name, tuple(points), tuple(rings))


def _add_interval(text: str, interval: str) -> str:
    if not interval:
        return text
    return f"{text} ({interval})"


def _describe_point(row: Row, name: str) -> str:
    parts = [name, f"p = {format_number(row['p'])}", f"sparsity {format_percent(row['sparsity'])}"]
    interval = format_interval(row["low"], row["high"])
    parts.append(_add_interval(f"retention {format_percent(row['retention'])}", interval))
    if row["score"] is not None:
        parts.append(f"score {format_number(row['score'])}")
    return " · ".join(parts)


def _describe(panel: str, subject: str, marks: Sequence[Row]) -> str:
    texts = []
    for mark in marks:
        share = format_sparsity(mark["sparsity"], mark["status"] == RIGHT_CENSORED)
        texts.append(f"{title_part(subject, mark[subject])} {share}")
    subject_text = "retention over sparsity"
    if panel:
        subject_text = f"{panel}: {subject_text}"
    if not texts:
        return f"{subject_text}, without a critical sparsity."
    return f"{subject_text}. Critical sparsity: {', '.join(texts)}."


def _choose_axes(rows: list[Row], marks: list[Row], retain: float) -> _Axes:
    """Choose limits of the axes at which the allowed loss stays visible, see `BAND_SHARE`."""
    floor = max(0.0, 1 - BAND_SHARE * max(1 - retain, MIN_LOSS))
    heights = column_values(rows, "retention")
    for column in ("low", "high"):
        heights += known_numbers(rows, column)
    lowest = min(heights)
    highest = max(heights)
    bottom = max(floor, min(lowest, 1 - 3 * (1 - retain)) - AXIS_MARGIN)
    top = min(max(highest, 1.0), 2 - floor) + AXIS_MARGIN
    visible = [row["sparsity"] for row in rows if row["retention"] >= bottom]
    visible += column_values(marks, "sparsity")
    last = max(column_values(rows, "sparsity"))
    right = max(min(1.08 * max(visible, default=1.0), 1.02 * last), 0.01)
    return _Axes(right, bottom, top, lowest < bottom)


def _make_axes(axes: _Axes) -> tuple[Axis, Axis]:
    return (
        Axis(SPARSITY_TITLE, 0.0, axes.right, format_share),
        Axis("retention", axes.bottom, axes.top, format_share, tick_count=6),
    )


def _describe_line(retain: float) -> str:
    if is_by_perplexity(retain):
        return f", {describe_required(retain)}"
    return f" of {format_percent(retain)}"


def _notes(rows: list[Row], marks: list[Row], axes: _Axes, retain: float) -> tuple[str, ...]:
    notes = [
        f"The dashed line is the required retention{_describe_line(retain)}. Rings mark the critical sparsities, and "
        "vertical bars are 95% intervals."
    ]
    if RIGHT_CENSORED in column_values(marks, "status"):
        notes.append("Open triangles are lower bounds: the last measured point is still above the line.")
    chosen_by = set(column_values(rows, "chosen_by"))
    if chosen_by == {SEARCH}:
        notes.append("The points were chosen by the adaptive search.")
    elif SEARCH in chosen_by:
        notes.append("Large points were chosen by the adaptive search, small points are listed in the study.")
    if axes.is_cut_off:
        notes.append(f"Retention below {100 * axes.bottom:.0f}% is cut off.")
    return tuple(notes)
