"""The axes of a plot with their grid, ticks and titles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparsedial.report.plots.scales import Scale
from sparsedial.report.plots.svg_elements import element, fit_text, number, text

LEFT = 54
RIGHT = 18
BOTTOM = 46
TITLE_HEIGHT = 22
AXIS_TITLE_HEIGHT = 26

TITLE_SIZE = 13
LABEL_SIZE = 16
"""Largest size of the font of labels, which small screens use."""


@dataclass(frozen=True)
class Axis:
    """One axis of a plot.

    Attributes:
        title: Title of the axis.
        low: Number at its start.
        high: Number at its end.
        format_tick: Function that returns the label of a tick.
        ticks: Numbers with a label. None for round numbers. Defaults to None.
        tick_count: Largest number of round ticks. Defaults to 5.
        is_log: True for a logarithmic axis. Defaults to False.
    """

    title: str
    low: float
    high: float
    format_tick: Callable[[float], str]
    ticks: Sequence[float] | None = None
    tick_count: int = 5
    is_log: bool = False


@dataclass(frozen=True)
class Frame:
    """The axes of a plot, ready for its content.

    Attributes:
        x: Scale of the horizontal axis.
        y: Scale of the vertical axis.
        grid: Grid lines, which are drawn below the content.
        labels: Title, ticks and titles of the axes, which are drawn above it.
        layout: Attributes that tell the script where the plot is.
    """

    x: Scale
    y: Scale
    grid: str
    labels: str
    layout: dict[str, str]

    def clip(self, content: str) -> str:
        """Return content of which only the part inside of the plot is visible.

        Args:
            content: SVG elements.
        """
        width = self.x.end - self.x.start
        height = self.y.start - self.y.end
        view = f"{number(self.x.start)} {number(self.y.end)} {number(width)} {number(height)}"
        return element(
            "svg", content, x=self.x.start, y=self.y.end, width=width, height=height, viewBox=view, class_="clip"
        )


def draw_frame(title: str, x_axis: Axis, y_axis: Axis, width: float, height: float) -> Frame:
    """Draw the axes of a plot.

    Args:
        title: Title of the plot. Empty for none.
        x_axis: Horizontal axis.
        y_axis: Vertical axis, whose title is drawn above it.
        width: Width in pixels, with the labels.
        height: Height in pixels, with the labels.

    Returns:
        The axes.
    """
    top = AXIS_TITLE_HEIGHT + (TITLE_HEIGHT if title else 0)
    x = Scale(x_axis.low, x_axis.high, float(LEFT), float(width - RIGHT), x_axis.is_log)
    y = Scale(y_axis.low, y_axis.high, float(height - BOTTOM), float(top), y_axis.is_log)
    grid = []
    labels = []
    if title:
        labels.append(text(fit_text(title, width - 12, TITLE_SIZE + 1), 4, 16, class_="h"))
    labels.append(text(y_axis.title, 4, top - 11, class_="t"))
    for tick in _ticks(y_axis, y):
        position = y(tick)
        grid.append(element("path", class_="g", d=f"M{number(x.start)} {number(position)}H{number(x.end)}"))
        labels.append(text(y_axis.format_tick(tick), x.start - 8, position + 4, class_="t", text_anchor="end"))
    for tick in _ticks(x_axis, x):
        position = x(tick)
        labels.append(
            element("path", class_="ax", d=f"M{number(position)} {number(y.start)}v5")
            + text(x_axis.format_tick(tick), position, y.start + 19, class_="t", text_anchor="middle")
        )
    labels.append(element("path", class_="ax", d=f"M{number(x.start)} {number(y.start)}H{number(x.end)}"))
    labels.append(text(x_axis.title, x.end, y.start + 38, class_="t", text_anchor="end"))
    layout = {
        "data-x": f"{x.low} {x.high} {number(x.start)} {number(x.end)}",
        "data-y": f"{y.low} {y.high} {number(y.start)} {number(y.end)}",
    }
    return Frame(x, y, "".join(grid), "".join(labels), layout)


def format_share(value: float) -> str:
    """Return a fraction as a percentage without more decimals than it needs.

    Args:
        value: The fraction.

    Example:
        >>> format_share(0.2), format_share(0.975)
        ('20%', '97.5%')
    """
    return f"{100 * value:.4g}%".replace("-", "−")


def format_whole(value: float) -> str:
    """Return a whole number.

    Args:
        value: The number.
    """
    return f"{value:.0f}"


def _ticks(axis: Axis, scale: Scale) -> Sequence[float]:
    if axis.ticks is not None:
        return [tick for tick in axis.ticks if scale.contains(tick)]
    return scale.ticks(axis.tick_count)
