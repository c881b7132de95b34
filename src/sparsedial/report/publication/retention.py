"""Figures of retention over sparsity: by site and task for one model, and by size for one family."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from operator import itemgetter

import altair as alt
import pandas as pd

from sparsedial.report.charts.common import (
    CURVE_COLUMNS,
    HAS_INTERVAL,
    Layers,
    Row,
    chart_rows,
    distinct_values,
    drop_missing,
    name_panels,
    ordered_sites,
)
from sparsedial.report.charts.theme import TEXT_COLOUR
from sparsedial.report.publication.panels import arrange_panels, percent_axis, upper_end
from sparsedial.report.publication.series import (
    INTERVAL_WIDTH,
    LINE_WIDTH,
    POINT_SIZE,
    SeriesStyle,
    add_reference_styles,
    encode_series,
    site_styles,
    size_styles,
)

SPARSITY_TITLE = "sparsity"
RETENTION_TITLE = "retention"
HEIGHT = 110

DENSE_POINT = {"sparsity": 0.0, "retention": 1.0, "low": None, "high": None, "kind": "dense"}
"""The point at which every curve begins."""

HIGHEST_BOTTOM = 0.9
MARGIN = 0.02


def draw_retention_by_site(points: pd.DataFrame, references: Sequence[Row], retain: float) -> alt.TopLevelMixin:
    """Draw retention over sparsity for one model: a line per site, and a panel per task.

    Args:
        points: Rows of ``Results.points`` of one model.
        references: Points of references (`References.points`).
        retain: Share of the dense score that has to be kept, drawn as a horizontal line.

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = _read_points(points)
    sites = ordered_sites(rows)
    known = [row for row in references if row["site"] in sites]
    for row in rows:
        row["series"] = row["site"]
    return _draw(rows, known, add_reference_styles(site_styles(sites), known, "site"), retain)


def draw_retention_by_size(points: pd.DataFrame, models: Sequence[str], retain: float) -> alt.TopLevelMixin:
    """Draw retention over sparsity for the models of one family: a line per model, and a panel per site.

    Args:
        points: Rows of ``Results.points`` of one family and task.
        models: Names of the models, from the smallest to the largest.
        retain: Share of the dense score that has to be kept, drawn as a horizontal line.

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = _read_points(points)
    for row in rows:
        row["series"] = row["model"]
    return _draw(rows, [], list(size_styles(models).values()), retain)


def _read_points(points: pd.DataFrame) -> list[Row]:
    rows = chart_rows(points, (*CURVE_COLUMNS, "site"), ("sparsity", "retention", "low", "high"))
    return drop_missing(rows, "sparsity", "retention")


def _draw(rows: list[Row], references: list[Row], styles: Sequence[SeriesStyle], retain: float) -> alt.TopLevelMixin:
    is_by_model = len(distinct_values(rows, "model")) > 1
    panel_columns = ("rule", "layers", "task", "site") if is_by_model else ("rule", "layers", "task")
    panels = name_panels(rows, references, by=panel_columns)
    data: list[Row] = []
    for panel in panels:
        data.append({"panel": panel, "retention": retain, "kind": "threshold"})
    curves: set[tuple[str, str]] = set()
    for row in rows:
        data.append({**row, "kind": "point"})
        if (row["panel"], row["series"]) not in curves:
            curves.add((row["panel"], row["series"]))
            data.append({**row, **DENSE_POINT})
    for row in references:
        data.append({**row, "kind": "reference"})
    data.sort(key=lambda row: row.get("sparsity", -1.0))
    points = [*rows, *references]
    layers = _layers(styles, sparsity_axis(points, panels), _retention_axis(points))
    return arrange_panels(layers, data, styles, panels, HEIGHT)


def _layers(styles: Sequence[SeriesStyle], x: alt.X, y: alt.Y) -> Layers:
    channels = encode_series(styles)
    base = alt.Chart().encode(x=x, y=y)
    threshold = alt.Chart().mark_rule(strokeDash=[3, 2], color=TEXT_COLOUR, strokeWidth=0.8).encode(y=y)
    points = base.transform_filter("datum.kind === 'point'")
    line_rows = base.transform_filter("datum.kind === 'point' || datum.kind === 'dense'")
    references = base.transform_filter("datum.kind === 'reference'")
    mark = alt.MarkDef(type="point", filled=True, size=POINT_SIZE, opacity=1, strokeWidth=1)
    return alt.layer(
        threshold.transform_filter("datum.kind === 'threshold'"),
        line_rows.mark_line(strokeWidth=LINE_WIDTH).encode(**channels.line),
        points.transform_filter(HAS_INTERVAL)
        .mark_rule(clip=True, strokeWidth=INTERVAL_WIDTH)
        .encode(y="low:Q", y2="high:Q", **channels.interval),
        points.properties(mark=mark).encode(**channels.mark),
        references.mark_line(strokeWidth=LINE_WIDTH).encode(**channels.line),
        references.properties(mark=mark).encode(**channels.mark),
    )


def sparsity_axis(rows: Sequence[Row], panels: Sequence[str]) -> alt.X:
    """Return a linear axis of sparsity that starts at 0.

    Args:
        rows: All rows on the axis.
        panels: Titles of the panels.
    """
    domain = [0.0, min(1.0, upper_end(list(map(itemgetter("sparsity"), rows))))]
    scale = alt.Scale(domain=domain, nice=False)
    return alt.X("sparsity:Q", title=SPARSITY_TITLE, scale=scale, axis=percent_axis(panels))


def _retention_axis(rows: Sequence[Row]) -> alt.Y:
    """Return an axis that shows every point. Intervals may be cut off."""
    values = list(map(itemgetter("retention"), rows))
    lowest = min(values)
    highest = max(values)
    bottom = min(HIGHEST_BOTTOM, floor(10 * lowest - MARGIN) / 10)
    domain = [max(0.0, bottom), max(1.0, highest) + MARGIN]
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    return alt.Y("retention:Q", title=RETENTION_TITLE, scale=scale, axis=percent_axis())
