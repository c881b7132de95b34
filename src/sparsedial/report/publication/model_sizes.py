"""Figure of critical sparsity over the number of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.report.charts.common import (
    HAS_INTERVAL,
    Layers,
    Row,
    chart_rows,
    distinct_values,
    drop_missing,
    name_panels,
)
from sparsedial.report.charts.parameter_axis import parameter_axis
from sparsedial.report.charts.theme import TEXT_COLOUR
from sparsedial.report.publication.panels import arrange_panels, percent_axis, upper_end
from sparsedial.report.publication.series import (
    INTERVAL_WIDTH,
    LINE_WIDTH,
    POINT_SIZE,
    SeriesStyle,
    add_reference_styles,
    encode_series,
    series_styles,
)

CRITICAL_TITLE = "critical sparsity"
HEIGHT = 130
PANEL_COLUMNS = ("rule", "layers", "task", "site")
NUMBERS = ("sparsity", "low", "high", "parameters", "active_parameters")
BOUND_MARK = "↑"
BOUND_ROOM = 0.12
"""Room on the axis for the arrow of a lower bound."""


def draw_sizes(critical: pd.DataFrame, references: Sequence[Row]) -> alt.TopLevelMixin:
    """Draw critical sparsity over the number of parameters on a logarithmic axis: a line per family, a panel per site.

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
    rows = drop_missing(rows, "parameters")
    known = drop_missing(references, "parameters")
    for row in rows:
        row["series"] = row["family"]
    data = [*rows, *known]
    styles = add_reference_styles(series_styles(distinct_values(data, "family")), known, "family")
    panels = name_panels(data, by=PANEL_COLUMNS)
    return arrange_panels(_layers(data, styles), data, styles, panels, HEIGHT)


def read_critical_rows(critical: pd.DataFrame) -> list[Row]:
    """Return the rows with a critical sparsity or an interval, in the order of the report.

    Args:
        critical: Rows of ``Results.critical``.

    Returns:
        The rows. ``kind`` is ``estimate``, ``bound`` or ``interval``.
    """
    names = ("model", "family", *PANEL_COLUMNS, "status")
    rows = []
    for row in chart_rows(critical, names, NUMBERS):
        row["kind"] = "bound" if row["status"] == RIGHT_CENSORED else "estimate"
        if row["sparsity"] is None:
            if row["low"] is None or row["high"] is None:
                continue
            row["kind"] = "interval"
        rows.append(row)
    return rows


def highest_value(rows: Sequence[Row]) -> float:
    """Return the end of an axis of critical sparsities that holds all intervals, and the arrows of lower bounds.

    Args:
        rows: Rows with ``sparsity``, ``low``, ``high`` and ``kind``.
    """
    values = []
    bounds = [0.0]
    for row in rows:
        values += [row["sparsity"] or 0.0, row["high"] or 0.0]
        if row["kind"] == "bound":
            bounds.append(row["sparsity"])
    return max(min(1.0, upper_end(values)), max(bounds) + BOUND_ROOM)


def _layers(rows: Sequence[Row], styles: Sequence[SeriesStyle]) -> Layers:
    channels = encode_series(styles)
    scale = alt.Scale(domain=[0.0, highest_value(rows)], nice=False)
    y = alt.Y("sparsity:Q", title=CRITICAL_TITLE, scale=scale, axis=percent_axis())
    base = alt.Chart().encode(x=parameter_axis(rows), y=y)
    known = base.transform_filter("isValid(datum.sparsity)")
    bounds = base.transform_filter("datum.kind === 'bound'")
    return alt.layer(
        known.mark_line(strokeWidth=LINE_WIDTH).encode(**channels.line),
        base.transform_filter(HAS_INTERVAL)
        .mark_rule(strokeWidth=INTERVAL_WIDTH)
        .encode(y="low:Q", y2="high:Q", **channels.interval),
        known.mark_point(filled=True, size=1.4 * POINT_SIZE, strokeWidth=1.2, opacity=1).encode(**channels.mark),
        bounds.mark_text(text=BOUND_MARK, dy=-9, fontSize=10, color=TEXT_COLOUR),
    )
