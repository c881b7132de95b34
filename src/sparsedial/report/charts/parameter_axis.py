"""The axis of numbers of parameters in figures for publications."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from sparsedial.report.charts.common import Row

AXIS_MARGIN = 1.3
"""Factor by which the axis extends beyond the smallest and the largest model."""

MIN_TICKS = 3
TICK_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))
"""Choices of the ticks within a factor of ten, from few to many."""


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
