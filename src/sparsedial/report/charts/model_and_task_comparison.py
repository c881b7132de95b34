"""Charts that compare models and tasks: critical sparsity by model, and as a heat map over tasks."""

from __future__ import annotations

import altair as alt
import pandas as pd

from sparsedial.analysis.estimates import AT_LEAST, UNDECIDED, Estimate, choose_answer, is_true
from sparsedial.analysis.labels import is_average
from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.report.charts.common import (
    CHART_WIDTH,
    CRITICAL_TITLE,
    HAS_INTERVAL,
    IS_BOUND,
    IS_NO_BOUND,
    MAX_LABEL_WIDTH,
    Row,
    TitleAndSize,
    assemble_chart,
    chart_rows,
    critical_note,
    distinct_values,
    drop_missing,
    interval_note,
    label_width,
    name_panels,
    ordered_sites,
    percent_axis,
    title_part,
)
from sparsedial.report.charts.theme import HEAT_MAP_COLOURS, TEXT_COLOUR, site_colour_scale, site_shape_scale
from sparsedial.report.formatting import format_interval, format_sparsity

COMPARISON_COLUMNS = ("model", "family", "rule", "layers", "task", "site", "status")

INTERVAL_COLUMNS = ("sparsity", "low", "high", "high_censored", "is_wide")
"""Columns that decide which number is written beside a critical sparsity (`value_label`)."""

DARK_CELL = 0.65
"""Cells of a heat map have white text if their value is above this share of the highest value."""

SITE_HEIGHT = 15
MODEL_PADDING = 8


def draw_models(critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """Draw the critical sparsity of every model and site as a dot with its 95% interval.

    There is one panel per task.

    Args:
        critical: Table ``Results.critical``.
        retain: Share of the dense score that has to be kept.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = read_comparison(critical)
    panels = name_panels(rows, by=("rule", "layers", "task"))
    store_value_labels(rows)
    sites = ordered_sites(rows)
    models = _models_in_order(rows)
    x = critical_axis(rows, padding=1.16)
    base = alt.Chart().encode(
        y=alt.Y(
            "model:N",
            title=None,
            scale=alt.Scale(domain=models, paddingInner=0.25, paddingOuter=0.1),
            axis=alt.Axis(labelFontSize=13, ticks=False, labelLimit=MAX_LABEL_WIDTH, grid=False),
        ),
        yOffset=alt.YOffset("site:N", scale=alt.Scale(domain=sites)),
        color=alt.Color("site:N", scale=site_colour_scale(sites)),
    )
    intervals = base.transform_filter(HAS_INTERVAL).mark_rule(strokeWidth=2)
    points = base.transform_filter(IS_NO_BOUND).mark_point(filled=True, size=55, opacity=1)
    bounds = base.transform_filter(IS_BOUND).mark_point(filled=True, size=90, opacity=1, shape="triangle-right")
    labels = base.mark_text(align="left", dx=7, fontSize=11)
    layers = alt.layer(
        intervals.encode(x=alt.X("low:Q", title=CRITICAL_TITLE), x2="high:Q"),
        points.encode(x=x, shape=alt.Shape("site:N", scale=site_shape_scale(sites))),
        bounds.encode(x=x),
        labels.encode(x="end:Q", text="label:N", color=alt.value(TEXT_COLOUR)),
    )
    layout = TitleAndSize(
        heading=f"Critical sparsity by model and site{task_suffix(rows)}",
        subtitle=f"{critical_note(retain)}; {interval_note(rows)}",
        height=len(models) * (SITE_HEIGHT * len(sites) + MODEL_PADDING),
        label_width=label_width(rows, "model"),
        max_columns=2,
    )
    return assemble_chart(layers, rows, panels, layout)


def draw_tasks(critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """Draw a heat map of critical sparsities with their intervals.

    Its columns are the tasks. Its rows are the models, with a panel per site, or the sites of a single model.

    Args:
        critical: Table ``Results.critical``.
        retain: Share of the dense score that has to be kept.

    Returns:
        The chart.

    Raises:
        ValueError: No row can be drawn.
    """
    rows = read_comparison(critical)
    models = _models_in_order(rows)
    tasks = sorted(distinct_values(rows, "task"), key=is_average)
    if len(models) == 1:
        row_column = "site"
        row_names = ordered_sites(rows)
        panels = name_panels(rows, by=("rule", "layers"))
    else:
        row_column = "model"
        row_names = models
        panels = name_panels(rows, by=("rule", "layers", "site"))
    highest = max(row["sparsity"] for row in rows)
    for row in rows:
        row["label"] = value_label(row)
        row["interval"] = format_interval(row["low"], row["high"], is_true(row["high_censored"]))
        row["is_dark"] = row["sparsity"] > DARK_CELL * highest
    row_axis = alt.Axis(ticks=False, domain=False, labelFontSize=13, labelLimit=MAX_LABEL_WIDTH)
    base = alt.Chart().encode(
        x=_task_axis(rows, tasks, room=(CHART_WIDTH - label_width(rows, row_column)) / len(tasks)),
        y=alt.Y(f"{row_column}:N", title=None, scale=alt.Scale(domain=row_names), axis=row_axis),
    )
    text_colour = alt.condition("datum.is_dark", alt.value("white"), alt.value(TEXT_COLOUR))
    shades = alt.Scale(range=HEAT_MAP_COLOURS, domain=[0, highest])
    cells = base.mark_rect(stroke="white", strokeWidth=2)
    layers = alt.layer(
        cells.encode(color=alt.Color("sparsity:Q", scale=shades, legend=None)),
        base.mark_text(fontSize=12.5, dy=-6).encode(text="label:N", color=text_colour),
        base.mark_text(fontSize=10, dy=9).encode(text="interval:N", color=text_colour),
    )
    layout = TitleAndSize(
        heading="Critical sparsity by task",
        subtitle=f"{critical_note(retain)}, with its 95% interval",
        height=alt.Step(44),
        label_width=label_width(rows, row_column),
        max_columns=1,
        title_anchor="start",
    )
    return assemble_chart(layers, rows, panels, layout)


def read_comparison(critical: pd.DataFrame, *numbers: str) -> list[Row]:
    """Return the rows with a critical sparsity, in the order of the sites.

    Args:
        critical: Table ``Results.critical``.
        *numbers: Further columns with numbers.

    Returns:
        The rows. Each has its ``position`` in the order of the report.
    """
    rows = drop_missing(chart_rows(critical, COMPARISON_COLUMNS, (*INTERVAL_COLUMNS, *numbers)), "sparsity")
    for position, row in enumerate(rows):
        row["position"] = position
    sites = ordered_sites(rows)
    return sorted(rows, key=lambda row: sites.index(row["site"]))


def store_value_labels(rows: list[Row]) -> None:
    """Store in every row the text of its value, and the position where the text starts.

    Args:
        rows: Rows with the columns of `INTERVAL_COLUMNS` and ``status``. ``label`` and ``end`` are added to each.
    """
    for row in rows:
        row["label"] = value_label(row)
        row["end"] = max(row["sparsity"], row["high"] or 0.0)


def value_label(row: Row) -> str:
    """Return the number that answers how many activations can be dropped.

    Args:
        row: A row with the columns of `INTERVAL_COLUMNS` and ``status``.

    Returns:
        The estimate, the lower end with ``≥``, or the text that the data do not decide.
    """
    is_lower_bound = row["status"] == RIGHT_CENSORED
    estimate = Estimate(row["sparsity"], row["low"], row["high"], is_lower_bound, is_true(row["high_censored"]))
    answer = choose_answer(estimate, is_true(row["is_wide"]))
    if answer == UNDECIDED:
        return "not decided"
    if answer == AT_LEAST:
        return format_sparsity(row["low"], is_lower_bound=True)
    return format_sparsity(row["sparsity"], is_lower_bound)


def critical_axis(rows: list[Row], padding: float, tick_count: int = 6) -> alt.X:
    """Return the x axis of critical sparsities, with room for the labels on the right.

    Args:
        rows: Rows with ``end`` (see `store_value_labels`).
        padding: Length of the axis, divided by the highest ``end``.
        tick_count: Approximate number of ticks.

    Returns:
        The encoding.
    """
    longest = max(row["end"] for row in rows)
    scale = alt.Scale(domain=[0, max(0.05, padding * longest)], nice=False)
    return alt.X("sparsity:Q", title=CRITICAL_TITLE, scale=scale, axis=percent_axis(tick_count))


def task_suffix(rows: list[Row]) -> str:
    """Return the task for the heading of a chart, if there is only one.

    Args:
        rows: The rows of the chart.

    Returns:
        The text to append to the heading. Empty if there are several tasks.
    """
    tasks = distinct_values(rows, "task")
    return f" · {title_part('task', tasks[0])}" if len(tasks) == 1 else ""


def _models_in_order(rows: list[Row]) -> list[str]:
    """Return the models by family and size, whichever sites each of them has."""
    return distinct_values(sorted(rows, key=lambda row: row["position"]), "model")


def _task_axis(rows: list[Row], tasks: list[str], room: float) -> alt.X:
    """Return the axis of the tasks. Its labels are tilted if they are wider than a column."""
    angle = -35 if label_width(rows, "task") > room else 0
    axis = alt.Axis(orient="top", labelAngle=angle, ticks=False, domain=False, labelLimit=220)
    return alt.X("task:N", title=None, scale=alt.Scale(domain=tasks), axis=axis)
