"""Figures of sparsity by layer, and by denoising step."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd

from sparsedial.analysis.breakdowns import ANY_STATE
from sparsedial.analysis.row_order import unique_in_order
from sparsedial.ffn.feed_forward import BUILTIN_SITES
from sparsedial.report.charts.common import (
    CURVE_COLUMNS,
    SPARSITY_TITLE,
    Row,
    chart_rows,
    drop_missing,
    name_lines,
    name_panels,
    ordered_sites,
)
from sparsedial.report.charts.overlap_series import OVERLAP_SERIES
from sparsedial.report.figures.profile_data import ProfileTable, find_highest, list_p_values
from sparsedial.report.figures.row_groups import (
    NumbersTable,
    column_values,
    distinct_numbers,
    group_rows,
    model_suffix,
    sort_by,
)
from sparsedial.report.formatting import MISSING, format_number, format_percent
from sparsedial.report.plots.figure import Figure, panel_width
from sparsedial.report.plots.heat_panel import Cell, HeatMap, draw_heat_panel
from sparsedial.report.plots.line_panel import Line, LinePlot, Point, draw_line_panel
from sparsedial.report.plots.palette import LineStyle, series_styles, site_styles
from sparsedial.report.plots.plot_frame import Axis, format_share, format_whole
from sparsedial.report.plots.scales import integer_ticks
from sparsedial.report.supplementary_tables import DetailTable

NEAREST_POINT_NOTE = "Each site is shown at the measured p that is nearest to its critical sparsity."
HEIGHT = 270
TOKEN_STATES = ("masked", "revealed")
VECTOR_DASHES = ("", "6 3", "2 2.5")
"""Dashes of the first, second and third vector of a site."""


def make_layer_figure(name: str, layers: pd.DataFrame, profiles: ProfileTable) -> Figure:
    """Draw sparsity over the layers, at the measured p nearest to the critical sparsity.

    There is one line per site and vector, and one panel per combination of rule, layers, task and phase.

    Args:
        name: Name of the figure.
        layers: Rows of ``Results.layers`` of one model.
        profiles: The numbers at every measured p.

    Returns:
        The figure. A reader can choose another value of p.

    Raises:
        ValueError: No row can be drawn.
    """
    by = (*CURVE_COLUMNS, "phase")
    rows = drop_missing(chart_rows(layers, (*by, "site", "vector"), ("layer", "sparsity", "p")), "layer", "sparsity")
    panels = name_panels(rows, by=by)
    name_lines(rows)
    legend = line_styles(rows)
    measured = profiles.select(rows)
    highest = max(*column_values(rows, "sparsity"), find_highest(measured, "sparsity"))
    y_axis = Axis(SPARSITY_TITLE, 0.0, min(1.0, max(0.05, 1.05 * highest)), format_share)
    drawn = []
    for panel, members in group_rows(rows, "panel").items():
        lines = tuple(map(partial(_layer_line, group_rows(members, "line"), profiles), legend))
        description = f"{panel or 'Sparsity by layer'}: {_describe_ranges(members)}."
        plot = LinePlot(panel, description, layer_axis("layer", rows), y_axis, lines)  # fmt: skip
        drawn.append(draw_line_panel(plot, legend, panel_width(len(panels)), HEIGHT))
    heading = f"Sparsity by layer{model_suffix(rows)}"
    numbers = _layer_numbers(rows, list(legend))
    return Figure(name, heading, (NEAREST_POINT_NOTE,), tuple(drawn), legend, numbers, list_p_values(measured))


def make_step_figure(name: str, steps: pd.DataFrame) -> Figure:
    """Draw a heat map of sparsity over denoising steps and layers, with a panel per site and vector.

    Args:
        name: Name of the figure.
        steps: Rows of ``Results.steps`` of one model.

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = chart_rows(steps, (*CURVE_COLUMNS, "site", "vector"), ("step", "layer", "sparsity"))
    rows = drop_missing(rows, "step", "layer", "sparsity")
    name_lines(rows)
    name_panels(rows, by=(*CURVE_COLUMNS, "line"))
    lowest = min(column_values(rows, "sparsity"))
    highest = max(column_values(rows, "sparsity"))
    drawn = []
    numbers = NumbersTable("Denoising step", "Sparsity, mean of layers")
    for panel, members in group_rows(rows, "panel").items():
        step_names = list(map(format_whole, distinct_numbers(members, "step")))
        layer_names = list(map(format_whole, distinct_numbers(members, "layer")))
        cells = {}
        for row in members:
            layer = format_whole(row["layer"])
            step = format_whole(row["step"])
            share = format_percent(row["sparsity"])
            cells[layer, step] = Cell(row["sparsity"], share, "", f"step {step} · layer {layer} · sparsity {share}")
        for step_number, same_step in group_rows(sort_by(members, "step"), "step").items():
            mean = statistics.fmean(column_values(same_step, "sparsity"))
            numbers.add(panel, format_whole(step_number), format_percent(mean))
        description = f"{panel or 'Sparsity'}: {format_percent(lowest)} to {format_percent(highest)}."
        drawn.append(
            draw_heat_panel(HeatMap(panel, description, layer_names, step_names, cells, highest, lowest,
                                    "layer", "denoising step"))
        )  # fmt: skip
    notes = (
        NEAREST_POINT_NOTE,
        f"Darker cells are sparser, from {format_percent(lowest)} to {format_percent(highest)}.",
    )
    heading = f"Sparsity by denoising step and layer{model_suffix(rows)}"
    return Figure(name, heading, notes, tuple(drawn), numbers=numbers.to_table())


def make_overlap_figure(name: str, step_overlap: pd.DataFrame) -> Figure:
    """Draw the Jaccard index of the kept sets with those of the previous step and of the first one.

    Args:
        name: Name of the figure.
        step_overlap: Rows of ``Results.step_overlap`` of one model.

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = _step_rows(step_overlap[step_overlap["state"] == ANY_STATE], *OVERLAP_SERIES.values())
    points = []
    for row in rows:
        for series, column in OVERLAP_SERIES.items():
            points.append({**row, "series": series, "value": row[column]})
    axis = Axis("Jaccard index", 0.0, 1.0, format_number)
    return _step_lines(name, points, list(OVERLAP_SERIES), "Overlap of kept sets", axis)


def make_state_figure(name: str, step_overlap: pd.DataFrame) -> Figure:
    """Draw the sparsity of masked and of revealed tokens over the steps.

    Args:
        name: Name of the figure.
        step_overlap: Rows of ``Results.step_overlap`` of one model.

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = _step_rows(step_overlap[step_overlap["state"] != ANY_STATE], "sparsity")
    points = []
    for row in rows:
        points.append({**row, "series": row["state"], "value": row["sparsity"]})
    values = column_values(drop_missing(points, "step", "value"), "value")
    if not values:
        raise ValueError("nothing to draw: no row has finite values")
    margin = max(0.01, 0.06 * (max(values) - min(values)))
    axis = Axis(SPARSITY_TITLE, max(0.0, min(values) - margin), min(1.0, max(values) + margin), format_share)
    return _step_lines(name, points, list(TOKEN_STATES), "Sparsity of masked and revealed tokens", axis)


def line_styles(rows: Sequence[Row]) -> dict[str, LineStyle]:
    """Return the style of each line: the colour of its site, and a dash for the vectors of a site.

    Args:
        rows: Rows with a ``line`` (`name_lines`).
    """
    sites = ordered_sites(rows)
    styles = site_styles(sites)
    legend: dict[str, LineStyle] = {}
    for site, members in group_rows(rows, "site").items():
        lines = dict(zip(column_values(members, "vector"), column_values(members, "line"), strict=True))
        for index, vector in enumerate(unique_in_order(lines, BUILTIN_SITES)):
            style = styles[site]
            if len(lines) > 1:
                style = replace(style, dash=VECTOR_DASHES[index % len(VECTOR_DASHES)])
            legend[lines[vector]] = style
    return legend


def _layer_line(rows: Mapping[str, list[Row]], profiles: ProfileTable, name: str) -> Line:
    """Return a line of layers. A line with only one layer has a mark, because it has no width."""
    members = sort_by(rows.get(name, ()), "layer")
    if not members:
        return Line(name, ())
    if len(members) == 1:
        (row,) = members
        points = [Point(row["layer"], row["sparsity"], describe_layer(row))]
    else:
        points = list(map(Point, column_values(members, "layer"), column_values(members, "sparsity")))
    return Line(name, tuple(points), key=profiles.find_index(members[0]))


def describe_layer(row: Row) -> str:
    """Return the sparsity of a layer on one line.

    Args:
        row: A row with ``line``, ``layer`` and ``sparsity``.
    """
    return f"{row['line']} · layer {row['layer']:.0f} · sparsity {format_percent(row['sparsity'])}"


def layer_axis(title: str, rows: Sequence[Row]) -> Axis:
    """Return the axis of the layers, or of the steps, with whole numbers.

    Args:
        title: Name of the column, which is the title of the axis.
        rows: The rows.

    Returns:
        The axis. It is wider than its number if there is only one.
    """
    numbers = distinct_numbers(rows, title)
    margin = 0.0
    if len(numbers) == 1:
        margin = 0.5
    ticks = integer_ticks(numbers[0], numbers[-1], 7)
    return Axis(title, numbers[0] - margin, numbers[-1] + margin, format_whole, ticks)


def _describe_ranges(rows: Sequence[Row]) -> str:
    texts = []
    for name, members in group_rows(rows, "line").items():
        values = column_values(members, "sparsity")
        texts.append(f"{name} {format_percent(min(values))} to {format_percent(max(values))}")
    return "sparsity over the layers: " + ", ".join(texts)


def _layer_numbers(rows: Sequence[Row], lines: list[str]) -> DetailTable:
    numbers = NumbersTable("Layer", *lines)
    for panel, members in group_rows(rows, "panel").items():
        for layer, same_layer in group_rows(sort_by(members, "layer"), "layer").items():
            values = dict(zip(column_values(same_layer, "line"), column_values(same_layer, "sparsity"), strict=True))
            numbers.add(panel, format_whole(layer), *map(format_percent, map(values.get, lines)))
    return numbers.to_table()


def _step_rows(step_overlap: pd.DataFrame, *numbers: str) -> list[Row]:
    rows = chart_rows(step_overlap, (*CURVE_COLUMNS, "site", "vector", "state"), ("step", *numbers))
    name_lines(rows)
    return rows


def _step_lines(name: str, points: list[Row], series: list[str], heading: str, axis: Axis) -> Figure:
    rows = drop_missing(points, "step", "value")
    panels = name_panels(rows, by=(*CURVE_COLUMNS, "line"))
    legend = series_styles(series)
    drawn = []
    numbers = NumbersTable("Step", *series)
    for panel, members in group_rows(rows, "panel").items():
        by_series = group_rows(sort_by(members, "step"), "series")
        lines = tuple(map(partial(_step_line, by_series, axis), series))
        texts = []
        for key, same_series in by_series.items():
            heights = column_values(same_series, "value")
            texts.append(f"{key} {axis.format_tick(min(heights))} to {axis.format_tick(max(heights))}")
        plot = LinePlot(panel, f"{panel or heading}: {', '.join(texts)}.", layer_axis("step", rows), axis, lines)
        drawn.append(draw_line_panel(plot, legend, panel_width(len(panels)), HEIGHT))
        for step, same_step in group_rows(sort_by(members, "step"), "step").items():
            values = dict(zip(column_values(same_step, "series"), column_values(same_step, "value"), strict=True))
            numbers.add(panel, format_whole(step), *map(_format_value, map(values.get, series)))
    notes = (NEAREST_POINT_NOTE, "The values are means over layers and tokens.")
    return Figure(name, f"{heading}{model_suffix(rows)}", notes, tuple(drawn), legend, numbers.to_table())


def _format_value(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.3f}"


def _step_line(rows: Mapping[str, list[Row]], axis: Axis, name: str) -> Line:
    points = []
    for row in rows.get(name, ()):
        tooltip = f"{name} · step {row['step']:.0f} · {axis.title} {axis.format_tick(round(row['value'], 4))}"
        points.append(Point(row["step"], row["value"], tooltip, radius=2.4))
    return Line(name, tuple(points))
