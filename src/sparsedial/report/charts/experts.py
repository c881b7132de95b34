"""Charts of the experts of mixture-of-experts layers: their spread, their distribution and their routing."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from sparsedial.analysis.expert_outliers import OUTLIER_Z
from sparsedial.analysis.shown_experts import select_experts_to_draw
from sparsedial.report.charts.common import (
    CURVE_COLUMNS,
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
from sparsedial.report.charts.theme import TEXT_COLOUR, site_colour_scale

BAND_OPACITY = 0.22
PANEL_COLUMNS = (*CURVE_COLUMNS, "phase", "line")


@dataclass(frozen=True)
class _ExpertRows:
    """The rows of experts that received tokens.

    Attributes:
        rows: One per expert, layer, vector and phase, in the order of the sites.
        panels: Names of the panels, one per site and vector.
        note: Text that says how many experts have no data.
    """

    rows: list[Row]
    panels: list[str]
    note: str


def draw_expert_band(experts: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw the lowest, the mean and the highest sparsity over the experts of each layer.

    There is one panel per site and vector.

    Args:
        experts: Table ``Results.experts``.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    data = _read_experts(experts)
    layer = alt.X("layer:Q", title="layer", axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False))
    base = alt.Chart().encode(x=layer, color=_site_colour(data.rows))
    mean = alt.Y("mean(sparsity):Q", title=SPARSITY_TITLE, axis=percent_axis(), scale=alt.Scale(zero=True))
    lowest = alt.Y("min(sparsity):Q", title=SPARSITY_TITLE)
    if len({row["layer"] for row in data.rows}) == 1:  # an area and a line would have no width
        band = base.mark_rule(strokeWidth=6, opacity=BAND_OPACITY)
        centre = base.mark_point(filled=True, size=60, opacity=1)
    else:
        band = base.mark_area(opacity=BAND_OPACITY, line=False)
        centre = base.mark_line(strokeWidth=2)
    layers = alt.layer(band.encode(y=lowest, y2="max(sparsity):Q"), centre.encode(y=mean))
    subtitle = f"line: mean over the experts; band: from the lowest to the highest sparsity; {data.note}"
    layout = TitleAndSize("Sparsity over the experts of each layer", subtitle, height=220)
    return assemble_chart(layers, data.rows, data.panels, layout)


def draw_expert_histogram(experts: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw the number of experts, over all layers, by their sparsity.

    There is one panel per site and vector.

    Args:
        experts: Table ``Results.experts``.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    data = _read_experts(experts)
    bars = (
        alt.Chart()
        .mark_bar(opacity=0.85, binSpacing=1)
        .encode(
            x=alt.X("sparsity:Q", bin=alt.Bin(maxbins=24), title=SPARSITY_TITLE, axis=percent_axis(tick_count=5)),
            y=alt.Y("count():Q", title="experts of all layers", axis=alt.Axis(tickMinStep=1, tickCount=5)),
            color=_site_colour(data.rows),
        )
    )
    layout = TitleAndSize("Experts by sparsity", data.note, height=180)
    return assemble_chart(alt.layer(bars), data.rows, data.panels, layout)


def draw_expert_routing(experts: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw the sparsity of each expert over its share of the layer's tokens.

    There is one panel per site and vector. Outliers are drawn as rings. Those furthest from the
    median are labelled.

    Args:
        experts: Table ``Results.experts``.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    data = _read_experts(experts)
    selected = select_experts_to_draw(experts)
    if selected.empty:
        raise ValueError("nothing to draw: there are no counts of tokens that were routed to each expert")
    rows = _known_rows(selected, "share", "outlier", "is_labelled")
    panels = name_panels(data.rows, rows, by=PANEL_COLUMNS)
    for row in rows:
        if row["is_labelled"]:
            row["label"] = f"layer {row['layer']:.0f}, expert {row['expert']:.0f}"
    base = alt.Chart().encode(x=_share_axis(), y=_sparsity_axis(), color=_site_colour(rows))
    outliers = base.transform_filter("datum.outlier")
    labels = outliers.transform_filter("isValid(datum.label)").mark_text(align="left", dx=8, dy=-5, fontSize=10.5)
    layers = alt.layer(
        base.transform_filter("!datum.outlier").mark_point(filled=True, size=26, opacity=0.55),
        outliers.mark_point(filled=False, size=70, strokeWidth=2, opacity=1),
        labels.encode(text="label:N", color=alt.value(TEXT_COLOUR)),
    )
    subtitle = [
        f"rings: more than {OUTLIER_Z:g} robust standard deviations (1.4826 MAD) from the layer's median",
        data.note,
    ]
    layout = TitleAndSize("Experts: sparsity over routing frequency", subtitle, height=240, max_columns=2)
    return assemble_chart(layers, rows, panels, layout)


def _share_axis() -> alt.X:
    return alt.X(
        "share:Q",
        title="share of the layer's routed tokens",
        scale=alt.Scale(type="log", nice=False, padding=14),
        axis=alt.Axis(format=".1~%", tickCount=4, labelOverlap="greedy"),
    )


def _sparsity_axis() -> alt.Y:
    scale = alt.Scale(zero=False, padding=14)
    return alt.Y("sparsity:Q", title=SPARSITY_TITLE, scale=scale, axis=percent_axis())


def _site_colour(rows: list[Row]) -> alt.Color:
    return alt.Color("site:N", scale=site_colour_scale(ordered_sites(rows)), legend=None)


def _read_experts(experts: pd.DataFrame) -> _ExpertRows:
    rows = _known_rows(experts)
    panels = name_panels(rows, by=PANEL_COLUMNS)
    unknown_count = len(experts) - len(rows)
    note = "every expert received tokens"
    if unknown_count:
        note = f"experts that received no token have no data and are left out ({unknown_count} of {len(experts)})"
    return _ExpertRows(rows, panels, note)


def _known_rows(experts: pd.DataFrame, *numbers: str) -> list[Row]:
    """Return the rows of experts with data, in the order of the sites."""
    names = (*CURVE_COLUMNS, "phase", "site", "vector")
    rows = drop_missing(chart_rows(experts, names, ("layer", "expert", "sparsity", *numbers)), "sparsity")
    name_lines(rows)
    sites = ordered_sites(rows)
    return sorted(rows, key=lambda row: sites.index(row["site"]))
