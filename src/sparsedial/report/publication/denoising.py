"""Figures of diffusion models over their denoising steps: sparsity, and overlap of kept sets."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import altair as alt
import pandas as pd

from sparsedial.analysis.breakdowns import ANY_STATE
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
from sparsedial.report.charts.overlap_series import OVERLAP_SERIES
from sparsedial.report.publication.panels import arrange_panels, percent_axis, upper_end
from sparsedial.report.publication.retention import SPARSITY_TITLE
from sparsedial.report.publication.series import (
    LINE_WIDTH,
    SERIES_COLOURS,
    SOLID,
    SeriesStyle,
    add_reference_styles,
    encode_series,
    filled_style,
)

HEIGHT = 110
STEP_TITLE = "denoising step"
MIDDLE_LAYERS = "mean over layers"
LOWEST_LAYER = "lowest layer"
HIGHEST_LAYER = "highest layer"
PREVIOUS, FIRST = OVERLAP_SERIES
SPARSITY_STYLES = (
    filled_style(HIGHEST_LAYER, SERIES_COLOURS[1], "triangle-up", [4, 2]),
    filled_style(MIDDLE_LAYERS, SERIES_COLOURS[0], "circle", SOLID),
    filled_style(LOWEST_LAYER, SERIES_COLOURS[2], "triangle-down", [2, 2]),
)
OVERLAP_STYLES = {
    PREVIOUS: filled_style(PREVIOUS, SERIES_COLOURS[0], "circle", SOLID),
    FIRST: filled_style(FIRST, SERIES_COLOURS[1], "square", [4, 2]),
}


def draw_step_sparsity(steps: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw sparsity over the denoising steps: the mean over the layers, and the lowest and the highest layer.

    There is one panel per site and vector.

    Args:
        steps: Rows of ``Results.steps`` of one model.

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = drop_missing(_read(steps, "layer", "sparsity"), "step", "layer", "sparsity")
    panels = name_panels(rows, by=(*CURVE_COLUMNS, "line"))
    by_step: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        by_step.setdefault((row["panel"], row["step"]), []).append(row["sparsity"])
    data: list[Row] = []
    highest = 0.0
    for (panel, step), values in by_step.items():
        position = {"panel": panel, "step": step}
        highest = max(highest, *values)
        data.append({**position, "series": HIGHEST_LAYER, "value": max(values)})
        data.append({**position, "series": MIDDLE_LAYERS, "value": sum(values) / len(values)})
        data.append({**position, "series": LOWEST_LAYER, "value": min(values)})
    scale = alt.Scale(domain=[0.0, min(1.0, upper_end([highest]))], nice=False)
    y = alt.Y("value:Q", title=SPARSITY_TITLE, scale=scale, axis=percent_axis())
    return arrange_panels(_line_layers(SPARSITY_STYLES, y), data, SPARSITY_STYLES, panels, HEIGHT)


def draw_step_overlap(step_overlap: pd.DataFrame, references: Sequence[Row]) -> alt.TopLevelMixin:
    """Draw the mean Jaccard index of the kept sets with those of the previous and of the first denoising step.

    There is one panel per site and vector.

    Args:
        step_overlap: Rows of ``Results.step_overlap`` of one model.
        references: Ranges of references for consecutive steps (`References.overlap_ranges`), drawn with open marks.

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = _read(step_overlap[step_overlap["state"] == ANY_STATE], *OVERLAP_SERIES.values())
    data: list[Row] = []
    for row in rows:
        for series, column in OVERLAP_SERIES.items():
            data.append({**row, "series": series, "value": row[column]})
    data = drop_missing(data, "step", "value")
    panels = name_panels(data, by=(*CURVE_COLUMNS, "line"))
    ranges = _range_rows(references, panels, last_step=max(map(itemgetter("step"), data)))
    styles = add_reference_styles(OVERLAP_STYLES, ranges, "line")
    data += ranges
    scale = alt.Scale(domain=[0.0, 1.0], nice=False)
    y = alt.Y("value:Q", title="Jaccard index", scale=scale, axis=alt.Axis(format=".1f", tickCount=5))
    return arrange_panels(_line_layers(styles, y), data, styles, panels, HEIGHT)


def _range_rows(references: Sequence[Row], panels: Sequence[str], last_step: float) -> list[Row]:
    """Return the two ends of each range as horizontal lines through every panel."""
    rows: list[Row] = []
    for reference in references:
        label = {"reference": reference["reference"], "line": PREVIOUS}
        for panel in panels:
            for end in ("low", "high"):
                for step in (1.0, last_step):
                    rows.append({**label, "panel": panel, "end": end, "step": step, "value": reference[end]})
    return rows


def _read(frame: pd.DataFrame, *numbers: str) -> list[Row]:
    rows = chart_rows(frame, (*CURVE_COLUMNS, "site", "vector"), ("step", *numbers))
    name_lines(rows)
    sites = ordered_sites(rows)
    return sorted(rows, key=lambda row: sites.index(row["site"]))


def _line_layers(styles: Sequence[SeriesStyle], y: alt.Y) -> Layers:
    channels = encode_series(styles)
    axis = alt.Axis(format="d", tickMinStep=1, tickCount=6, labelOverlap="greedy")
    x = alt.X("step:Q", title=STEP_TITLE, axis=axis, scale=alt.Scale(nice=False, padding=4))
    base = alt.Chart().encode(x=x, y=y)
    return alt.layer(
        base.mark_line(strokeWidth=LINE_WIDTH).encode(**channels.line, detail="end:N"),
        base.mark_point(filled=True, size=16, strokeWidth=1, opacity=1).encode(**channels.mark),
    )
