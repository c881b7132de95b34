"""Figure of the lowest, mean and highest sparsity over the experts of each layer."""

from __future__ import annotations

from operator import itemgetter

import altair as alt
import pandas as pd

from sparsedial.report.charts.common import (
    CURVE_COLUMNS,
    Layers,
    Row,
    chart_rows,
    drop_missing,
    name_lines,
    name_panels,
    ordered_sites,
)
from sparsedial.report.publication.panels import arrange_panels, percent_axis, upper_end
from sparsedial.report.publication.retention import SPARSITY_TITLE
from sparsedial.report.publication.series import LINE_WIDTH, SERIES_COLOURS, SOLID, encode_series, filled_style

HEIGHT = 110
MAXIMUM = "maximum"
MEAN = "mean"
MINIMUM = "minimum"
STYLES = (
    filled_style(MAXIMUM, SERIES_COLOURS[1], "triangle-up", [4, 2]),
    filled_style(MEAN, SERIES_COLOURS[0], "circle", SOLID),
    filled_style(MINIMUM, SERIES_COLOURS[2], "triangle-down", [2, 2]),
)


def draw_experts(experts: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw the minimum, the mean and the maximum of the experts' sparsity over the layers.

    There is one panel per site, vector and phase. Experts without tokens have no sparsity and are left out.

    Args:
        experts: Rows of ``Results.experts`` of one model.

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    names = (*CURVE_COLUMNS, "phase", "site", "vector")
    rows = drop_missing(chart_rows(experts, names, ("layer", "sparsity")), "layer", "sparsity")
    name_lines(rows)
    sites = ordered_sites(rows)
    rows.sort(key=lambda row: sites.index(row["site"]))
    panels = name_panels(rows, by=(*CURVE_COLUMNS, "phase", "line"))
    return arrange_panels(_layers(rows), _summarize(rows), STYLES, panels, HEIGHT)


def _summarize(rows: list[Row]) -> list[Row]:
    """Return the minimum, the mean and the maximum of each panel and layer."""
    values: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        values.setdefault((row["panel"], row["layer"]), []).append(row["sparsity"])
    summary: list[Row] = []
    for (panel, layer), sparsities in values.items():
        position = {"panel": panel, "layer": layer}
        summary.append({**position, "series": MAXIMUM, "sparsity": max(sparsities)})
        summary.append({**position, "series": MEAN, "sparsity": sum(sparsities) / len(sparsities)})
        summary.append({**position, "series": MINIMUM, "sparsity": min(sparsities)})
    return summary


def _layers(rows: list[Row]) -> Layers:
    channels = encode_series(STYLES)
    layer_axis = alt.Axis(format="d", tickMinStep=1, tickCount=6, labelOverlap="greedy")
    y_scale = alt.Scale(domain=[0.0, min(1.0, upper_end(list(map(itemgetter("sparsity"), rows))))], nice=False)
    base = alt.Chart().encode(
        x=alt.X("layer:Q", title="layer", axis=layer_axis, scale=alt.Scale(nice=False, zero=False, padding=4)),
        y=alt.Y("sparsity:Q", title=SPARSITY_TITLE, scale=y_scale, axis=percent_axis()),
    )
    return alt.layer(
        base.mark_line(strokeWidth=LINE_WIDTH).encode(**channels.line),
        base.mark_point(filled=True, size=18, strokeWidth=1, opacity=1).encode(**channels.mark),
    )
