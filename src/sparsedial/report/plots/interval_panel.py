"""Plots of estimates with their intervals, one below the other, each with its name and its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsedial.report.plots.figure import Panel
from sparsedial.report.plots.marks import draw_symbol
from sparsedial.report.plots.palette import LineStyle
from sparsedial.report.plots.plot_frame import BOTTOM, LABEL_SIZE, TITLE_HEIGHT, TITLE_SIZE, format_share
from sparsedial.report.plots.scales import Scale
from sparsedial.report.plots.svg_elements import element, fit_text, number, text, text_width, title

ROW_HEIGHT = 40
TEXT_OFFSET = 15
LINE_OFFSET = 27
MARGIN = 14
CAP = 5
ARROW = 6
MIN_NAME_WIDTH = 60.0


@dataclass(frozen=True)
class IntervalRow:
    """One estimate.

    Attributes:
        name: Name of the row.
        label: The estimate and its interval as text.
        tooltip: Text that is shown on demand.
        style: Colour and shape.
        value: The estimate. None if there is none.
        low: Lower end of the interval. None if there is no interval.
        high: Upper end of the interval.
        is_bound: True if the estimate is a lower bound. It is drawn as an open triangle.
        is_high_open: True if the upper end is only a lower bound. It is drawn as an arrow without an end.
    """

    name: str
    label: str
    tooltip: str
    style: LineStyle
    value: float | None
    low: float | None
    high: float | None
    is_bound: bool = False
    is_high_open: bool = False


@dataclass(frozen=True)
class IntervalPlot:
    """A plot of estimates.

    Attributes:
        panel_title: Title of the plot. Empty for none.
        axis_title: Title of the axis.
        low: Number at the start of the axis.
        high: Number at its end.
        rows: The estimates, from top to bottom.
        is_difference: True if the estimates are differences, so that 0 is marked. Defaults to False.
    """

    panel_title: str
    axis_title: str
    low: float
    high: float
    rows: tuple[IntervalRow, ...]
    is_difference: bool = False


def draw_interval_panel(plot: IntervalPlot, width: float) -> Panel:
    """Draw a plot of estimates.

    Args:
        plot: What to draw.
        width: Width in pixels.

    Returns:
        The plot.
    """
    top = 4
    scale = Scale(plot.low, plot.high, float(MARGIN), float(width - MARGIN))
    parts = []
    if plot.panel_title:
        top += TITLE_HEIGHT
        parts.append(text(fit_text(plot.panel_title, width - 12, TITLE_SIZE + 1), 4, 16, class_="h"))
    bottom = top + ROW_HEIGHT * len(plot.rows)
    for tick in scale.ticks(5):
        x = number(scale(tick))
        css_class = "g"
        if plot.is_difference and tick == 0:
            css_class = "th"
        parts.append(element("path", class_=css_class, d=f"M{x} {number(top)}V{number(bottom)}"))
        label = format_share(tick)
        if plot.is_difference:
            label = f"{100 * tick:+.4g}".replace("-", "−").removesuffix("+0") or "0"
        parts.append(text(label, scale(tick), bottom + 17, class_="t", text_anchor="middle"))
    for index, row in enumerate(plot.rows):
        parts.append(_draw_row(row, index, top + ROW_HEIGHT * index, scale, width))
    parts.append(text(plot.axis_title, width - MARGIN, bottom + 37, class_="t", text_anchor="end"))
    description = "; ".join(f"{row.name}: {row.label}" for row in plot.rows)
    if plot.panel_title:
        description = f"{plot.panel_title}: {description}"
    return Panel(plot.panel_title, f"{description}.", width, bottom + BOTTOM, "".join(parts))


def axis_range(rows: Sequence[IntervalRow], smallest: float) -> tuple[float, float]:
    """Return an axis from 0, or below, that shows every row.

    Args:
        rows: The rows.
        smallest: Smallest length of the axis above 0.
    """
    ends: list[float] = []
    for row in rows:
        ends += [end for end in (row.value, row.low, row.high) if end is not None]
    low = min([0.0, *ends])
    high = max([0.0, *ends])
    padding = 0.06 * (high - low)
    if low < 0.0:
        low -= padding
    return low, max(smallest, high + padding)


def _draw_row(row: IntervalRow, index: int, top: float, scale: Scale, width: float) -> str:
    height = top + LINE_OFFSET
    label_width = text_width(row.label, LABEL_SIZE)
    name = fit_text(row.name, max(MIN_NAME_WIDTH, width - 2 * MARGIN - label_width - 10), LABEL_SIZE)
    parts = [title(row.tooltip), element("rect", class_="hit", x=0, y=top, width=width, height=ROW_HEIGHT)]
    if row.low is not None and row.high is not None:
        parts.append(_draw_interval(row, row.low, row.high, height, scale))
    if row.value is not None:
        position = (scale(row.value), height)
        if row.is_bound:
            parts.append(draw_symbol("triangle-right", position, 5.5, "o"))
        else:
            parts.append(draw_symbol(row.style.shape, position, 5.5))
    parts.append(text(name, MARGIN, top + TEXT_OFFSET, class_="n"))
    parts.append(text(row.label, width - MARGIN, top + TEXT_OFFSET, class_="v", text_anchor="end"))
    return element("g", "".join(parts), class_=f"s r c-{row.style.colour}", data_s=index)


def _draw_interval(row: IntervalRow, low: float, high: float, height: float, scale: Scale) -> str:
    start = scale(low)
    end = scale(high)
    y = number(height)
    data = f"M{number(start)} {number(height - CAP)}v{2 * CAP}M{number(start)} {y}H{number(end)}"
    if row.is_high_open:
        tip = min(end + ARROW, scale.end + ARROW)
        data += f"H{number(tip)}M{number(tip - ARROW)} {number(height - CAP)}L{number(tip)} {y}"
        data += f"L{number(tip - ARROW)} {number(height + CAP)}"
    else:
        data += f"M{number(end)} {number(height - CAP)}v{2 * CAP}"
    return element("path", class_="e", d=data)
