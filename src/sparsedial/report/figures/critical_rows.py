"""The rows of the charts of critical sparsity."""

from __future__ import annotations

import pandas as pd

from sparsedial.analysis.estimates import AT_LEAST, UNDECIDED, Estimate, choose_answer, is_true
from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.report.charts.common import Row, chart_rows, distinct_values, drop_missing, ordered_sites, title_part
from sparsedial.report.formatting import format_interval, format_number, format_parameters, format_sparsity
from sparsedial.report.plots.interval_panel import IntervalRow
from sparsedial.report.plots.palette import LineStyle

COMPARISON_COLUMNS = ("model", "family", "rule", "layers", "task", "site", "status")

INTERVAL_COLUMNS = ("sparsity", "low", "high", "high_censored", "is_wide")
"""Columns that decide which number is written beside a critical sparsity (`value_label`)."""


def read_comparison(critical: pd.DataFrame, *numbers: str) -> list[Row]:
    """Return the rows with a critical sparsity, in the order of the sites.

    Args:
        critical: Table ``Results.critical``.
        *numbers: Further columns with numbers.

    Returns:
        The rows. Each has its ``position`` in the order of the report.
    """
    columns = [*INTERVAL_COLUMNS, "p", "examples", *numbers]
    rows = drop_missing(chart_rows(critical, COMPARISON_COLUMNS, columns), "sparsity")
    for position, row in enumerate(rows):
        row["position"] = position
    sites = ordered_sites(rows)
    return sorted(rows, key=lambda row: sites.index(row["site"]))


def models_in_order(rows: list[Row]) -> list[str]:
    """Return the models by family and size, whichever sites each of them has.

    Args:
        rows: Rows of `read_comparison`.
    """
    return distinct_values(sorted(rows, key=lambda row: row["position"]), "model")


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


def interval_label(row: Row) -> str:
    """Return the 95% interval of a critical sparsity. Empty if it is not known.

    Args:
        row: A row with the columns of `INTERVAL_COLUMNS`.
    """
    return format_interval(row["low"], row["high"], is_true(row["high_censored"]))


def make_interval_row(row: Row, name: str, style: LineStyle) -> IntervalRow:
    """Return a critical sparsity as a row of a plot of estimates.

    Args:
        row: A row of `read_comparison`.
        name: Name of the row.
        style: Colour and shape.
    """
    label = value_label(row)
    interval = interval_label(row)
    if interval:
        label = f"{label} ({interval})"
    return IntervalRow(
        name=name,
        label=label,
        tooltip=describe_critical(row),
        style=style,
        value=row["sparsity"],
        low=row["low"],
        high=row["high"],
        is_bound=row["status"] == RIGHT_CENSORED,
        is_high_open=is_true(row["high_censored"]),
    )


def describe_critical(row: Row) -> str:
    """Return a critical sparsity with its interval and conditions, on one line.

    Args:
        row: A row of `read_comparison`.
    """
    estimate = format_sparsity(row["sparsity"], row["status"] == RIGHT_CENSORED)
    parts = [row["model"], title_part("task", row["task"]), row["site"], f"critical sparsity {estimate}"]
    interval = interval_label(row)
    if interval:
        parts.append(f"95% interval {interval}")
    if row.get("p") is not None:
        parts.append(f"p = {format_number(row['p'])}")
    if row.get("examples") is not None:
        parts.append(f"{format_number(row['examples'])} examples")
    if row.get("parameters"):
        parts.append(f"{format_parameters(row['parameters'])} parameters")
    return " · ".join(parts)


def task_suffix(rows: list[Row]) -> str:
    """Return the task for the heading of a chart, if there is only one.

    Args:
        rows: The rows of the chart.

    Returns:
        The text to append to the heading. Empty if there are several tasks.
    """
    tasks = distinct_values(rows, "task")
    return f" · {title_part('task', tasks[0])}" if len(tasks) == 1 else ""
