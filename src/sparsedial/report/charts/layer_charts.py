"""Charts of sparsity by layer, and by denoising step and layer."""

from __future__ import annotations

import altair as alt
import pandas as pd

from sparsedial.analysis.row_order import unique_in_order
from sparsedial.ffn.feed_forward import BUILTIN_SITES
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
    ordered_sites,
    percent_axis,
)
from sparsedial.report.charts.theme import HEAT_MAP_COLOURS, SITE_COLOURS, SPARE_COLOURS, site_values

DASHES = ([1, 0], [5, 3], [2, 2])
"""Dashes of the first, second and third vector of a site."""


def draw_layer_profile(layers: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw sparsity over the layers, at the measured p nearest to the critical sparsity.

    There is one line per site and vector, and one panel per combination of model, rule, task and phase. The vectors
    of ``all_inputs`` are distinguished by dashes.

    Args:
        layers: Table ``Results.layers``.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    by = (*CURVE_COLUMNS, "phase")
    rows = chart_rows(layers, (*by, "site", "vector"), ("layer", "sparsity"))
    rows = drop_missing(rows, "layer", "sparsity")
    panels = name_panels(rows, by=by)
    name_lines(rows)
    colours, dashes = _line_styles(rows)
    base = alt.Chart().encode(
        x=_layer_axis(rows),
        y=alt.Y("sparsity:Q", title=SPARSITY_TITLE, scale=alt.Scale(zero=True), axis=percent_axis()),
        color=alt.Color(
            "line:N",
            scale=alt.Scale(domain=list(colours), range=list(colours.values())),
            legend=alt.Legend(symbolType="stroke", symbolSize=400, symbolStrokeWidth=2.5),
        ),
    )
    # Vega-Lite merges the legends of colour and dash, because their domains are equal.
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=list(dashes), range=list(dashes.values())))
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dash)
    points = base.mark_point(filled=True, size=22, opacity=1)
    layout = TitleAndSize("Sparsity by layer", NEAREST_POINT_NOTE, height=280)
    return assemble_chart(alt.layer(lines, points), rows, panels, layout)


def draw_step_map(steps: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw a heat map of sparsity over denoising steps and layers, with a panel per site and vector.

    Args:
        steps: Table ``Results.steps``.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = chart_rows(steps, (*CURVE_COLUMNS, "site", "vector"), ("step", "layer", "sparsity"))
    rows = drop_missing(rows, "step", "layer", "sparsity")
    name_lines(rows)
    panels = name_panels(rows, by=(*CURVE_COLUMNS, "line"))
    step_axis = alt.Axis(format="d", labelAngle=0, labelOverlap="parity")
    cells = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=alt.X("step:O", title="denoising step", axis=step_axis),
            y=alt.Y("layer:O", title="layer", axis=alt.Axis(format="d", labelOverlap="parity")),
            color=alt.Color(
                "sparsity:Q",
                scale=alt.Scale(range=HEAT_MAP_COLOURS),
                legend=alt.Legend(format=".0%", title="sparsity"),
            ),
        )
    )
    layout = TitleAndSize("Sparsity by denoising step and layer", NEAREST_POINT_NOTE, height=220)
    return assemble_chart(alt.layer(cells), rows, panels, layout)


def _layer_axis(rows: list[Row]) -> alt.X:
    numbers = sorted({row["layer"] for row in rows})
    margin = 0.0
    axis = alt.Axis(format="d", tickMinStep=1)
    if len(numbers) == 1:
        margin = 0.5
        axis = alt.Axis(format="d", values=numbers)
    scale = alt.Scale(domain=[numbers[0] - margin, numbers[-1] + margin], nice=False)
    return alt.X("layer:Q", title="layer", scale=scale, axis=axis)


def _line_styles(rows: list[Row]) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Return the colour and the dash of each line, both in the order of the sites and their vectors."""
    sites = ordered_sites(rows)
    site_colour_scale = dict(zip(sites, site_values(sites, SITE_COLOURS, SPARE_COLOURS), strict=True))
    colours = {}
    dashes = {}
    for site in sites:
        lines = {row["vector"]: row["line"] for row in rows if row["site"] == site}
        for index, vector in enumerate(unique_in_order(lines, BUILTIN_SITES)):
            colours[lines[vector]] = site_colour_scale[site]
            dashes[lines[vector]] = DASHES[index % len(DASHES)]
    return colours, dashes
