"""Figures of the experts of mixture-of-experts layers: their spread, their distribution and their routing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import pandas as pd

from sparsedial.analysis.expert_outliers import OUTLIER_Z
from sparsedial.analysis.profiles import HISTOGRAM_BINS
from sparsedial.analysis.shown_experts import select_experts_to_draw
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
from sparsedial.report.figures.layer_figures import NEAREST_POINT_NOTE, layer_axis, line_styles
from sparsedial.report.figures.profile_data import ProfileTable, find_highest, list_p_values
from sparsedial.report.figures.row_groups import NumbersTable, column_values, group_rows, sort_by
from sparsedial.report.formatting import format_number, format_percent
from sparsedial.report.plots.bar_panel import draw_histogram
from sparsedial.report.plots.figure import Figure, panel_width
from sparsedial.report.plots.line_panel import Line, LinePlot, Point, Ring, draw_line_panel
from sparsedial.report.plots.palette import LineStyle
from sparsedial.report.plots.plot_frame import Axis, format_share, format_whole

HEIGHT = 250
PANEL_COLUMNS = (*CURVE_COLUMNS, "phase", "line")


@dataclass(frozen=True)
class _ExpertRows:
    """The rows of experts that received tokens.

    Attributes:
        rows: One per expert, layer, vector and phase, in the order of the sites.
        panels: Names of the panels, one per site and vector.
        note: Text that says how many experts have no data.
        styles: Style of each site.
    """

    rows: list[Row]
    panels: list[str]
    note: str
    styles: dict[str, LineStyle]


def make_band_figure(name: str, experts: pd.DataFrame, profiles: ProfileTable) -> Figure:
    """Draw the lowest, the mean and the highest sparsity over the experts of each layer.

    Args:
        name: Name of the figure.
        experts: Rows of ``Results.experts`` of one model.
        profiles: The numbers at every measured p.

    Returns:
        The figure, with one panel per site and vector.

    Raises:
        ValueError: No row can be drawn.
    """
    data = _read_experts(experts)
    measured = profiles.select(data.rows)
    highest = max(*column_values(data.rows, "sparsity"), find_highest(measured, "highest"))
    x_axis = layer_axis("layer", data.rows)
    y_axis = Axis(SPARSITY_TITLE, 0.0, min(1.0, max(0.05, 1.05 * highest)), format_share)
    drawn = []
    numbers = NumbersTable("Layer", "Lowest", "Mean", "Highest")
    for panel, members in group_rows(data.rows, "panel").items():
        spreads = _list_spreads(members)
        line = _band_line(members[0]["line"], spreads, profiles.find_index(members[0]))
        shares = column_values(members, "sparsity")
        description = f"{panel}: experts between {format_percent(min(shares))} and {format_percent(max(shares))}."
        plot = LinePlot(panel, description, x_axis, y_axis, (line,))
        legend = {line.name: data.styles[line.name]}
        drawn.append(draw_line_panel(plot, legend, panel_width(len(data.panels)), HEIGHT))
        for spread in spreads:
            shares = [spread.lowest, spread.mean, spread.highest]
            numbers.add(panel, format_whole(spread.layer), *map(format_percent, shares))
    notes = (
        f"The line is the mean over the experts, and the band goes from the lowest to the highest. {data.note}",
        NEAREST_POINT_NOTE,
    )
    heading = "Sparsity over the experts of each layer"
    return Figure(name, heading, notes, tuple(drawn), numbers=numbers.to_table(), p_values=list_p_values(measured))


def make_histogram_figure(name: str, experts: pd.DataFrame, profiles: ProfileTable) -> Figure:
    """Draw the number of experts, over all layers, by their sparsity.

    Args:
        name: Name of the figure.
        experts: Rows of ``Results.experts`` of one model.
        profiles: The numbers at every measured p.

    Returns:
        The figure, with one panel per site and vector.

    Raises:
        ValueError: No row can be drawn.
    """
    data = _read_experts(experts)
    measured = profiles.select(data.rows)
    by_panel = group_rows(data.rows, "panel")
    counts = {panel: _count_experts(members) for panel, members in by_panel.items()}
    highest = max(*map(max, counts.values()), int(find_highest(measured, "histogram")))
    size = (panel_width(len(data.panels)), HEIGHT)
    drawn = []
    numbers = NumbersTable("Sparsity", "Experts")
    for panel, members in by_panel.items():
        style = data.styles[members[0]["line"]]
        drawn.append(draw_histogram(panel, counts[panel], highest, style, profiles.find_index(members[0]), size))
        for index, count in enumerate(counts[panel]):
            if count:
                start = format_share(index / HISTOGRAM_BINS)
                numbers.add(panel, f"{start}–{format_share((index + 1) / HISTOGRAM_BINS)}", str(count))
    return Figure(
        name,
        "Experts by sparsity",
        (data.note,),
        tuple(drawn),
        numbers=numbers.to_table(),
        p_values=list_p_values(measured),
    )


def make_routing_figure(name: str, experts: pd.DataFrame) -> Figure:
    """Draw the sparsity of each expert over its share of the layer's tokens.

    Outliers are drawn as rings. Those furthest from the median are labelled.

    Args:
        name: Name of the figure.
        experts: Rows of ``Results.experts`` of one model.

    Returns:
        The figure, with one panel per site and vector.

    Raises:
        ValueError: No row can be drawn.
    """
    data = _read_experts(experts)
    selected = select_experts_to_draw(experts)
    if selected.empty:
        raise ValueError("nothing to draw: there are no counts of tokens that were routed to each expert")
    rows = _known_rows(selected, "share", "outlier", "is_labelled")
    panels = name_panels(data.rows, rows, by=PANEL_COLUMNS)
    shares = column_values(rows, "share")
    sparsities = column_values(rows, "sparsity")
    margin = max(0.01, 0.08 * (max(sparsities) - min(sparsities)))
    x_axis = Axis("share of the layer's routed tokens", min(shares) / 1.3, min(1.0, max(shares) * 1.3), format_share,
                  is_log=True, tick_count=4)  # fmt: skip
    y_axis = Axis(SPARSITY_TITLE, max(0.0, min(sparsities) - margin), min(1.0, max(sparsities) + margin), format_share)
    drawn = []
    numbers = NumbersTable("Outlier", "Share of tokens", "Sparsity")
    for panel, members in group_rows(rows, "panel").items():
        line, labels = _routing_line(members)
        description = f"{panel}: {len(members)} experts, {len(line.rings)} outliers."
        plot = LinePlot(panel, description, x_axis, y_axis, (line,), labels=labels)
        drawn.append(draw_line_panel(plot, {line.name: data.styles[line.name]}, panel_width(len(panels)), HEIGHT))
        for row in filter(itemgetter("outlier"), sort_by(members, "layer")):
            numbers.add(panel, _name_expert(row), format_percent(row["share"]), format_percent(row["sparsity"]))
    notes = (
        f"Rings: more than {OUTLIER_Z:g} robust standard deviations (1.4826 times the median absolute deviation) from "
        f"the median of the layer. {data.note}",
        NEAREST_POINT_NOTE,
    )
    heading = "Experts: sparsity over routing frequency"
    return Figure(name, heading, notes, tuple(drawn), numbers=numbers.to_table())


@dataclass(frozen=True)
class _Spread:
    """The lowest, the mean and the highest sparsity over the experts of a layer."""

    layer: float
    lowest: float
    mean: float
    highest: float


def _list_spreads(rows: Sequence[Row]) -> list[_Spread]:
    spreads = []
    for layer, members in group_rows(sort_by(rows, "layer"), "layer").items():
        shares = column_values(members, "sparsity")
        spreads.append(_Spread(layer, min(shares), statistics.fmean(shares), max(shares)))
    return spreads


def _count_experts(rows: Sequence[Row]) -> list[int]:
    """Return the number of experts in each bin of sparsity."""
    counts = [0] * HISTOGRAM_BINS
    for share in column_values(rows, "sparsity"):
        counts[min(HISTOGRAM_BINS - 1, int(share * HISTOGRAM_BINS))] += 1
    return counts


def _band_line(name: str, spreads: Sequence[_Spread], key: int | None) -> Line:
    """Return the line of the means with its band. A single layer has a mark and an interval, as it has no width."""
    if len(spreads) == 1:
        (spread,) = spreads
        tooltip = f"{name} · layer {spread.layer:.0f} · mean {format_percent(spread.mean)} "
        tooltip += f"({format_percent(spread.lowest)} to {format_percent(spread.highest)})"
        return Line(name, (Point(spread.layer, spread.mean, tooltip, spread.lowest, spread.highest),), key=key)
    points = []
    lower = []
    upper = []
    for spread in spreads:
        points.append(Point(spread.layer, spread.mean))
        lower.append((spread.layer, spread.lowest))
        upper.append((spread.layer, spread.highest))
    return Line(name, tuple(points), band=(tuple(lower), tuple(upper)), key=key)


def _routing_line(rows: Sequence[Row]) -> tuple[Line, tuple[tuple[float, float, str], ...]]:
    points = []
    rings = []
    labels = []
    for row in rows:
        share = format_percent(row["share"])
        tooltip = f"{_name_expert(row)} · share of tokens {share} · sparsity {format_percent(row['sparsity'])}"
        if row["outlier"]:
            rings.append(Ring(row["share"], row["sparsity"], tooltip))
        else:
            points.append(Point(row["share"], row["sparsity"], tooltip, radius=2.6))
    labelled: list[tuple[float, float]] = []
    for row in rows:
        position = (row["share"], row["sparsity"])
        if row["is_labelled"] and not any(map(partial(_is_close, position), labelled)):
            labelled.append(position)
            labels.append((*position, f"{format_number(row['layer'])}/{format_number(row['expert'])}"))
    return Line(rows[0]["line"], tuple(points), tuple(rings), is_connected=False), tuple(labels)


def _is_close(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Return True if the labels of two points would overlap."""
    ratio = max(first[0], second[0]) / min(first[0], second[0])
    return ratio < 1.35 and abs(first[1] - second[1]) < 0.02


def _name_expert(row: Row) -> str:
    return f"layer {row['layer']:.0f}, expert {row['expert']:.0f}"


def _read_experts(experts: pd.DataFrame) -> _ExpertRows:
    rows = _known_rows(experts)
    panels = name_panels(rows, by=PANEL_COLUMNS)
    unknown_count = len(experts) - len(rows)
    note = "Every expert received tokens."
    if unknown_count:
        note = f"Experts that received no token have no data and are left out ({unknown_count} of {len(experts)})."
    return _ExpertRows(rows, panels, note, line_styles(rows))


def _known_rows(experts: pd.DataFrame, *numbers: str) -> list[Row]:
    """Return the rows of experts with data, in the order of the sites."""
    names = (*CURVE_COLUMNS, "phase", "site", "vector")
    rows = drop_missing(chart_rows(experts, names, ("layer", "expert", "sparsity", *numbers)), "sparsity")
    name_lines(rows)
    sites = ordered_sites(rows)
    return sorted(rows, key=lambda row: sites.index(row["site"]))
