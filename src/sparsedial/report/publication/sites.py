"""Figure of the critical sparsity of all sites, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from sparsedial.report.charts.common import HAS_INTERVAL, Layers, Row, distinct_values, name_panels, ordered_sites
from sparsedial.report.charts.theme import TEXT_COLOUR
from sparsedial.report.publication.model_sizes import CRITICAL_TITLE, highest_value, read_critical_rows
from sparsedial.report.publication.panels import arrange_panels, percent_axis
from sparsedial.report.publication.series import (
    INTERVAL_WIDTH,
    POINT_SIZE,
    SeriesStyle,
    add_reference_styles,
    encode_series,
    site_styles,
)

ROW_HEIGHT = 9
MODEL_PADDING = 6
BOUND_MARK = "→"


def draw_sites(critical: pd.DataFrame, references: Sequence[Row]) -> alt.TopLevelMixin:
    """Draw the critical sparsity of every model and site as a point with its 95% interval, with a panel per task.

    A lower bound has an arrow. A curve without an estimate is drawn as its interval alone.

    Args:
        critical: Rows of ``Results.critical``.
        references: Critical sparsities of references (`References.critical_rows`).

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = read_critical_rows(critical)
    known = list(references)
    data = [*rows, *known]
    sites = ordered_sites(data)
    for row in rows:
        row["series"] = row["site"]
    styles = add_reference_styles(site_styles(sites), known, "site")
    panels = name_panels(data, by=("rule", "layers", "task"))
    models = distinct_values(data, "model")
    height = len(models) * (ROW_HEIGHT * len(sites) + MODEL_PADDING)
    layers = _layers(data, styles, models, sites)
    return arrange_panels(layers, data, styles, panels, height, max_columns=_count_columns(models))


def _count_columns(models: Sequence[str]) -> int:
    """Return how many panels fit side by side, because each has its own labels only in the first column."""
    return 2 if max(map(len, models)) > 24 else 3


def _layers(rows: Sequence[Row], styles: Sequence[SeriesStyle], models: list[str], sites: list[str]) -> Layers:
    channels = encode_series(styles)
    scale = alt.Scale(domain=[0.0, highest_value(rows)], nice=False)
    x = alt.X("sparsity:Q", title=CRITICAL_TITLE, scale=scale, axis=percent_axis())
    y_scale = alt.Scale(domain=models, paddingInner=0.2, paddingOuter=0.1)
    y = alt.Y("model:N", title=None, scale=y_scale, axis=alt.Axis(ticks=False, grid=False))
    offset = alt.YOffset("site:N", scale=alt.Scale(domain=sites))
    base = alt.Chart().encode(y=y, yOffset=offset)
    known = base.transform_filter("isValid(datum.sparsity)").encode(x=x)
    intervals = base.transform_filter(HAS_INTERVAL).mark_rule(strokeWidth=INTERVAL_WIDTH)
    bounds = base.transform_filter("datum.kind === 'bound'").encode(x=x)
    return alt.layer(
        intervals.encode(x=alt.X("low:Q", title=CRITICAL_TITLE), x2="high:Q", **channels.interval),
        known.mark_point(filled=True, size=POINT_SIZE, strokeWidth=1.2, opacity=1).encode(**channels.mark),
        bounds.mark_text(text=BOUND_MARK, dx=8, dy=-0.5, fontSize=9, color=TEXT_COLOUR),
    )
