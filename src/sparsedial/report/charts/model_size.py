"""Chart of critical sparsity over the number of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from sparsedial.report.charts.common import (
    CRITICAL_TITLE,
    HAS_INTERVAL,
    IS_BOUND,
    IS_NO_BOUND,
    Layers,
    Row,
    TitleAndSize,
    assemble_chart,
    critical_note,
    distinct_values,
    has_lower_bounds,
    name_panels,
    percent_axis,
)
from sparsedial.report.charts.model_and_task_comparison import read_comparison, task_suffix
from sparsedial.report.charts.theme import SERIES_COLOURS, SERIES_SHAPES, cycle_values

HAS_INACTIVE_PARAMETERS = "isValid(datum.active_parameters) && datum.active_parameters < datum.parameters"

AXIS_MARGIN = 1.3
"""Factor by which the axis extends beyond the smallest and the largest model."""

MIN_TICKS = 3
TICK_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))
"""Choices of the ticks within a factor of ten, from few to many."""


def draw_model_sizes(critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """Draw critical sparsity over the number of parameters, on a logarithmic axis.

    There is one line per family and one panel per site. A mixture of experts has a second, open mark at the number
    of parameters that are active for a token.

    Args:
        critical: Table ``Results.critical``.
        retain: Share of the dense score that has to be kept.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = read_comparison(critical, "parameters", "active_parameters")
    rows = [row for row in rows if row["parameters"]]
    panels = name_panels(rows, by=("rule", "layers", "task", "site"))
    families = distinct_values(rows, "family")
    heading = f"Critical sparsity by model size{task_suffix(rows)}"
    if len(families) == 1:
        heading += f" · {families[0]}"
    layout = TitleAndSize(heading, _notes(rows, retain), height=250, max_columns=5)
    return assemble_chart(_layers(rows, families), rows, panels, layout)


def parameter_axis(rows: Sequence[Row]) -> alt.X:
    """Return a logarithmic axis of numbers of parameters, with a few round ticks.

    Args:
        rows: Rows with ``parameters``. Active parameters lie within the axis, too, if the rows have them.

    Returns:
        The encoding.
    """
    sizes = []
    for row in rows:
        sizes += [row["parameters"], row.get("active_parameters") or row["parameters"]]
    low = min(sizes) / AXIS_MARGIN
    high = max(sizes) * AXIS_MARGIN
    return alt.X(
        "parameters:Q",
        title="parameters",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(
            values=_ticks(low, high),
            labelExpr="upper(replace(format(datum.value, '~s'), 'G', 'B'))",
            labelOverlap="greedy",
        ),
    )


def _layers(rows: list[Row], families: list[str]) -> Layers:
    y = alt.Y("sparsity:Q", title=CRITICAL_TITLE, scale=alt.Scale(zero=True), axis=percent_axis())
    base = alt.Chart().encode(x=parameter_axis(rows), color=_family_colour(families))
    shape_scale = alt.Scale(domain=families, range=cycle_values(SERIES_SHAPES, len(families)))
    shape = alt.Shape("family:N", scale=shape_scale, legend=None)
    point = base.encode(y=y)
    active = point.transform_filter(HAS_INACTIVE_PARAMETERS)
    open_mark = active.mark_point(filled=False, fill="white", size=70, strokeWidth=2, opacity=1)
    intervals = base.transform_filter(HAS_INTERVAL).mark_errorbar(
        rule={"strokeWidth": 1.6}, ticks={"size": 9, "thickness": 1.6}
    )
    bounds = point.transform_filter(IS_BOUND).mark_point(
        filled=False, fill="white", shape="triangle-up", size=110, strokeWidth=2, opacity=1
    )
    return alt.layer(
        point.mark_line(strokeWidth=1.6, opacity=0.75),
        intervals.encode(y=alt.Y("low:Q", title=CRITICAL_TITLE), y2="high:Q"),
        active.mark_rule(strokeDash=[2, 3], strokeWidth=1.4).encode(x2="active_parameters:Q"),
        open_mark.encode(x="active_parameters:Q", shape=shape),
        point.transform_filter(IS_NO_BOUND).mark_point(filled=True, size=70, opacity=1).encode(shape=shape),
        bounds,
    )


def _family_colour(families: list[str]) -> alt.Color:
    scale = alt.Scale(domain=families, range=cycle_values(SERIES_COLOURS, len(families)))
    legend = None if len(families) == 1 else alt.Legend(columns=6, symbolType="circle")
    return alt.Color("family:N", scale=scale, legend=legend)


def _notes(rows: list[Row], retain: float) -> list[str]:
    notes = [f"{critical_note(retain)}; bars are 95% intervals"]
    if has_lower_bounds(rows):
        notes.append("open triangles are lower bounds")
    if any(map(_has_inactive_parameters, rows)):
        notes.append("mixtures of experts: open mark at the active parameters, filled mark at all parameters")
    return notes


def _has_inactive_parameters(row: Row) -> bool:
    active = row["active_parameters"]
    return active is not None and active < row["parameters"]


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers of parameters within the axis, as few as possible but at least `MIN_TICKS`."""
    ticks: list[float] = []
    for steps in TICK_STEPS:
        ticks = []
        for exponent in range(3, 14):
            decade = 10.0**exponent
            ticks += [step * decade for step in steps if low <= step * decade <= high]
        if len(ticks) >= MIN_TICKS:
            return ticks
    return ticks or [(low * high) ** 0.5]
