"""Figures of critical sparsity: by site, by model, by task, by model size, and its differences."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from operator import attrgetter

import pandas as pd

from sparsedial.analysis.estimates import is_true
from sparsedial.analysis.finding_records import PairGroup, SiteDifference
from sparsedial.analysis.labels import is_average
from sparsedial.report.charts.common import (
    CRITICAL_TITLE,
    CURVE_COLUMNS,
    Row,
    critical_note,
    distinct_values,
    drop_missing,
    has_lower_bounds,
    name_panels,
    ordered_sites,
)
from sparsedial.report.figures.critical_rows import (
    describe_critical,
    interval_label,
    make_interval_row,
    models_in_order,
    read_comparison,
    task_suffix,
    value_label,
)
from sparsedial.report.figures.row_groups import (
    NumbersTable,
    column_values,
    group_rows,
    known_numbers,
    model_suffix,
    sort_by,
)
from sparsedial.report.formatting import (
    MISSING,
    format_parameters,
    format_point_interval,
    format_points,
    sanitize_text,
)
from sparsedial.report.pair_text import describe_examples
from sparsedial.report.plots.figure import Figure, Panel, panel_width
from sparsedial.report.plots.heat_panel import Cell, HeatMap, draw_heat_panel
from sparsedial.report.plots.interval_panel import IntervalPlot, IntervalRow, axis_range, draw_interval_panel
from sparsedial.report.plots.line_panel import Line, LinePlot, Point, Ring, draw_line_panel
from sparsedial.report.plots.palette import LineStyle, series_styles, site_styles
from sparsedial.report.plots.plot_frame import Axis, format_share
from sparsedial.report.scope_text import describe_scope

AXIS_MARGIN = 1.3
"""Factor by which the axis extends beyond the smallest and the largest model."""

SIZE_HEIGHT = 300
MIN_AXIS = 0.05
OPEN_END_NOTE = (
    "An arrow in place of an end, and an open triangle, mark a lower bound: the curve was not measured further."
)


def make_site_figure(critical: pd.DataFrame, retain: float) -> Figure:
    """Draw the critical sparsity of every site of one model, with a panel per rule, layers and task.

    Args:
        critical: Table ``Results.critical`` of one model.
        retain: Share of the dense score that has to be kept.

    Returns:
        The figure.
    """
    rows = read_comparison(critical)
    name_panels(rows, by=CURVE_COLUMNS)
    plots = _make_interval_rows(rows, "site")
    heading = f"Critical sparsity by site{model_suffix(rows)}"
    return _interval_figure("critical", heading, plots, _notes(rows, retain))


def make_model_figure(critical: pd.DataFrame, retain: float) -> Figure:
    """Draw the critical sparsity of every model, with a panel per site, rule, layers and task.

    Args:
        critical: The rows of table ``Results.critical`` by which models are compared.
        retain: Share of the dense score that has to be kept.

    Returns:
        The figure.
    """
    rows = read_comparison(critical, "parameters")
    name_panels(rows, by=("rule", "layers", "task", "site"))
    plots = _make_interval_rows(rows, "model")
    return _interval_figure("critical", f"Critical sparsity by model{task_suffix(rows)}", plots, _notes(rows, retain))


def make_task_figure(critical: pd.DataFrame, retain: float) -> Figure:
    """Draw a heat map of critical sparsities with their intervals.

    Its columns are the sites of a single model, or the models with a panel per site. Its rows are the tasks.

    Args:
        critical: Table ``Results.critical``.
        retain: Share of the dense score that has to be kept.

    Returns:
        The figure.
    """
    rows = read_comparison(critical)
    models = models_in_order(rows)
    tasks = sorted(distinct_values(rows, "task"), key=is_average)
    if len(models) == 1:
        column = "site"
        columns = ordered_sites(rows)
        name_panels(rows, by=("rule", "layers"))
    else:
        column = "model"
        columns = models
        name_panels(rows, by=("rule", "layers", "site"))
    highest = max(column_values(rows, "sparsity"))
    drawn = []
    numbers = NumbersTable("Task", *columns)
    for panel, members in group_rows(rows, "panel").items():
        cells = {(row["task"], row[column]): _make_cell(row) for row in members}
        description = f"Heat map with {len(tasks)} tasks and {len(columns)} columns. The table below has the numbers."
        drawn.append(draw_heat_panel(HeatMap(panel, description, tasks, columns, cells, highest)))
        for task in tasks:
            numbers.add(panel, task, *(_describe_cell(cells.get((task, heading))) for heading in columns))
    heading = f"Critical sparsity by task{model_suffix(rows)}"
    notes = (f"Critical sparsity is {critical_note(retain)}. The smaller numbers are its 95% interval.",)
    return Figure("tasks", heading, notes, tuple(drawn), numbers=numbers.to_table())


def make_size_figure(name: str, critical: pd.DataFrame, retain: float) -> Figure:
    """Draw critical sparsity over the number of parameters, on a logarithmic axis, with a line per family.

    A mixture of experts has a second, open mark at the number of parameters that are active for a token.

    Args:
        name: Name of the figure.
        critical: Rows of ``Results.critical`` of one task and models of several sizes.
        retain: Share of the dense score that has to be kept.

    Returns:
        The figure.
    """
    rows = drop_missing(read_comparison(critical, "parameters", "active_parameters"), "parameters")
    panels = name_panels(rows, by=("rule", "layers", "task", "site"))
    families = distinct_values(rows, "family")
    legend = series_styles(families)
    x_axis = _size_axis(rows)
    highest = max(column_values(rows, "sparsity") + known_numbers(rows, "high"))
    y_axis = Axis(CRITICAL_TITLE, 0.0, max(MIN_AXIS, 1.06 * highest), format_share)
    drawn = []
    for title, members in group_rows(rows, "panel").items():
        by_family = group_rows(sort_by(members, "parameters"), "family")
        lines = tuple(map(_size_line, by_family, by_family.values()))
        description = f"{title}: {', '.join(map(_describe_model, members))}."
        plot = LinePlot(title, description, x_axis, y_axis, lines)
        drawn.append(draw_line_panel(plot, legend, panel_width(len(panels)), SIZE_HEIGHT))
    notes = [f"Critical sparsity is {critical_note(retain)}. Bars are 95% intervals."]
    if has_lower_bounds(rows):
        notes.append("Open triangles are lower bounds, and intervals with an arrow have no upper end.")
    if any(map(_active_parameters, rows)):
        notes.append("A mixture of experts has an open square at its active parameters.")
    numbers = NumbersTable("Model", "Parameters", "Site", "Critical sparsity", "95% interval")
    for row in rows:
        size = format_parameters(row["parameters"])
        numbers.add("", row["model"], size, row["site"], value_label(row), interval_label(row))
    heading = f"Critical sparsity by model size{task_suffix(rows)}"
    return Figure(name, heading, tuple(notes), tuple(drawn), legend, numbers.to_table())


def make_difference_figure(name: str, group: PairGroup) -> Figure:
    """Draw the differences of pairs of models, or of rules, with a panel per pair.

    Args:
        name: Name of the figure.
        group: The pairs.

    Returns:
        The figure.
    """
    sites: list[str] = []
    for pair in group.pairs:
        sites += map(attrgetter("site"), pair.sites)
    styles = site_styles(sites)
    plots = {}
    for pair in group.pairs:
        pair_title = f"{sanitize_text(pair.first)} − {sanitize_text(pair.second)}"
        plots[pair_title] = [_difference_row(site, styles[site.site], pair_title) for site in pair.sites]
    subject = f"{group.kind}s {describe_scope(group.scope)}"
    if group.model is not None:
        subject = f"{group.kind}s for {sanitize_text(group.model)} {describe_scope(group.scope)}"
    notes = (
        f"Critical sparsity of the first {group.kind} minus that of the second one, in percentage points, with 95% "
        f"intervals {describe_examples(group.pairs)}. An interval that does not touch the dashed line excludes that "
        "both tolerate the same sparsity.",
    )
    figure = _interval_figure(name, f"Differences between {subject}", plots, notes, is_difference=True)
    return replace(figure, numbers=None)


def _difference_row(site: SiteDifference, style: LineStyle, pair_title: str) -> IntervalRow:
    difference = site.difference
    label = f"{format_points(difference.value)} ({format_point_interval(difference.low, difference.high)})"
    return IntervalRow(
        name=sanitize_text(site.site),
        label=label,
        tooltip=f"{sanitize_text(site.site)} · {pair_title} · {label} points",
        style=style,
        value=difference.value,
        low=difference.low,
        high=difference.high,
    )


def _make_interval_rows(rows: list[Row], column: str) -> dict[str, list[IntervalRow]]:
    """Return the rows of each panel, named by a column, in the order of the report."""
    styles = site_styles(ordered_sites(rows))
    order = {"site": ordered_sites, "model": models_in_order}[column](rows)
    plots = {}
    for panel, members in group_rows(rows, "panel").items():
        ordered = sorted(members, key=lambda row: order.index(row[column]))
        plots[panel] = [make_interval_row(row, row[column], styles[row["site"]]) for row in ordered]
    return plots


def _describe_cell(cell: Cell | None) -> str:
    if cell is None:
        return MISSING
    return f"{cell.label} ({cell.detail})"


def _describe_model(row: Row) -> str:
    return f"{row['model']} {value_label(row)}"


def _interval_figure(
    name: str,
    heading: str,
    plots: dict[str, list[IntervalRow]],
    notes: tuple[str, ...],
    is_difference: bool = False,
) -> Figure:
    low, high = axis_range(list(chain.from_iterable(plots.values())), MIN_AXIS)
    axis_title = CRITICAL_TITLE
    if is_difference:
        axis_title = "difference in percentage points"
    drawn: list[Panel] = []
    numbers = NumbersTable("Row", "Number (95% interval)")
    for title, rows in plots.items():
        plot = IntervalPlot(title, axis_title, low, high, tuple(rows), is_difference)
        drawn.append(draw_interval_panel(plot, panel_width(len(plots))))
        for row in rows:
            numbers.add(title, row.name, row.label)
    return Figure(name, heading, notes, tuple(drawn), numbers=numbers.to_table())


def _notes(rows: list[Row], retain: float) -> tuple[str, ...]:
    notes = [f"Critical sparsity is {critical_note(retain)}. Bars are 95% intervals."]
    if "≥" in " ".join(map(value_label, rows)):
        notes.append("≥ is a lower bound: the lower end of a wide interval, or the last measured point.")
    if has_lower_bounds(rows) or any(column_values(rows, "high_censored")):
        notes.append(OPEN_END_NOTE)
    return tuple(notes)


def _make_cell(row: Row) -> Cell:
    return Cell(row["sparsity"], value_label(row), interval_label(row), describe_critical(row))


def _size_axis(rows: list[Row]) -> Axis:
    sizes = []
    for row in rows:
        sizes += [row["parameters"], row["active_parameters"] or row["parameters"]]
    return Axis("parameters", min(sizes) / AXIS_MARGIN, max(sizes) * AXIS_MARGIN, format_parameters, is_log=True,
                tick_count=4)  # fmt: skip


def _size_line(family: str, rows: list[Row]) -> Line:
    points = []
    rings = []
    for row in rows:
        tooltip = describe_critical(row)
        is_open = is_true(row["high_censored"])
        points.append(Point(row["parameters"], row["sparsity"], tooltip, row["low"], row["high"], 5.0, is_open))
        if row["status"] == "right-censored":
            rings.append(Ring(row["parameters"], row["sparsity"], tooltip, "triangle-up"))
        active = _active_parameters(row)
        if active:
            note = f"{tooltip} · {format_parameters(active)} active parameters"
            rings.append(Ring(active, row["sparsity"], note, "square"))
    return Line(family, tuple(points), tuple(rings))


def _active_parameters(row: Row) -> float | None:
    """Return the active parameters if they are fewer than all parameters."""
    active: float | None = row["active_parameters"]
    if active is None or active >= row["parameters"]:
        return None
    return active
