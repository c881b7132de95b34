"""Chart of the critical sparsity of every site of a model."""

from __future__ import annotations

import altair as alt
import pandas as pd

from sparsedial.report.charts.common import (
    CRITICAL_TITLE,
    CURVE_COLUMNS,
    HAS_INTERVAL,
    IS_BOUND,
    IS_NO_BOUND,
    TitleAndSize,
    assemble_chart,
    chart_rows,
    critical_note,
    drop_missing,
    interval_note,
    name_panels,
    ordered_sites,
)
from sparsedial.report.charts.model_and_task_comparison import INTERVAL_COLUMNS, critical_axis, store_value_labels
from sparsedial.report.charts.theme import TEXT_COLOUR, site_colour_scale, site_shape_scale

SITE_HEIGHT = 34


def draw_sites(critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """Draw the critical sparsity of every site as a dot with its 95% interval.

    There is one panel per model, rule, layers and task.

    Args:
        critical: Table ``Results.critical``. Rows without a critical sparsity are not drawn.
        retain: Share of the dense score that has to be kept.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = chart_rows(critical, (*CURVE_COLUMNS, "site", "status"), INTERVAL_COLUMNS)
    rows = drop_missing(rows, "sparsity")
    panels = name_panels(rows, by=CURVE_COLUMNS)
    store_value_labels(rows)
    sites = ordered_sites(rows)
    x = critical_axis(rows, padding=1.3, tick_count=4)
    if len(panels) == 1:
        x = critical_axis(rows, padding=1.16)
    y = alt.Y("site:N", title=None, scale=alt.Scale(domain=sites), axis=alt.Axis(labelFontSize=13, ticks=False))
    base = alt.Chart().encode(y=y, color=alt.Color("site:N", scale=site_colour_scale(sites), legend=None))
    shape = alt.Shape("site:N", scale=site_shape_scale(sites), legend=None)
    intervals = base.transform_filter(HAS_INTERVAL).mark_errorbar(
        rule={"strokeWidth": 2}, ticks={"size": 14, "thickness": 2}
    )
    points = base.transform_filter(IS_NO_BOUND).mark_point(filled=True, size=80, opacity=1)
    bounds = base.transform_filter(IS_BOUND).mark_point(filled=True, size=130, opacity=1, shape="triangle-right")
    labels = base.mark_text(align="left", dx=9, fontSize=12.5)
    layers = alt.layer(
        intervals.encode(x=alt.X("low:Q", title=CRITICAL_TITLE), x2="high:Q"),
        points.encode(x=x, shape=shape),
        bounds.encode(x=x),
        labels.encode(x="end:Q", text="label:N", color=alt.value(TEXT_COLOUR)),
    )
    subtitle = f"{critical_note(retain)}; {interval_note(rows)}"
    layout = TitleAndSize("Critical sparsity by site", subtitle, height=SITE_HEIGHT * len(sites))
    return assemble_chart(layers, rows, panels, layout)
