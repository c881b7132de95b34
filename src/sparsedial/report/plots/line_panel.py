"""Plots of lines through points, with intervals and marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from sparsedial.report.formatting import format_list, sanitize_text
from sparsedial.report.plots.figure import Panel
from sparsedial.report.plots.marks import Position, draw_line, draw_symbol, overlap_in_pixels, path_data
from sparsedial.report.plots.palette import LineStyle
from sparsedial.report.plots.plot_frame import Axis, Frame, draw_frame
from sparsedial.report.plots.svg_elements import element, number, text

COINCIDENT = 1.5
"""Two lines coincide if they are nowhere further apart than this number of pixels."""

RING_RADIUS = 6.5


@dataclass(frozen=True)
class Point:
    """A point of a line.

    Attributes:
        x: Horizontal value.
        y: Vertical value.
        tooltip: Text that is shown on demand. Without it, the point has no mark.
        low: Lower end of the interval of ``y``. Defaults to None.
        high: Upper end of the interval of ``y``. Defaults to None.
        radius: Radius of the mark in pixels. Defaults to 4.
        is_high_open: True if the upper end is only a lower bound. It is drawn as an arrow. Defaults to False.
    """

    x: float
    y: float
    tooltip: str = ""
    low: float | None = None
    high: float | None = None
    radius: float = 4.0
    is_high_open: bool = False


@dataclass(frozen=True)
class Ring:
    """An open mark on a line, such as its critical sparsity.

    Attributes:
        x: Horizontal value.
        y: Vertical value.
        tooltip: Text that is shown on demand.
        shape: Shape of the mark: ``circle``, or another one for a lower bound.
    """

    x: float
    y: float
    tooltip: str
    shape: str = "circle"


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes:
        name: Name in the legend.
        points: The points, in the order of x.
        rings: Open marks. Defaults to none.
        band: Lower and upper edge of a band, as positions in numbers. Defaults to none.
        key: Index of the numbers that the script draws for another value of p. None if there are none.
        is_connected: False if only the points are drawn. Defaults to True.
    """

    name: str
    points: tuple[Point, ...]
    rings: tuple[Ring, ...] = ()
    band: tuple[tuple[Position, ...], tuple[Position, ...]] | None = None
    key: int | None = None
    is_connected: bool = True


@dataclass(frozen=True)
class LinePlot:
    """A plot of lines.

    Attributes:
        title: Title of the plot. Empty for none.
        description: Text alternative.
        x_axis: Horizontal axis.
        y_axis: Vertical axis.
        lines: The lines, in the order of the legend. Those without points are left out.
        threshold: Height of a horizontal dashed line. None for none.
        labels: Text at the position of a point. Defaults to none.
    """

    title: str
    description: str
    x_axis: Axis
    y_axis: Axis
    lines: tuple[Line, ...]
    threshold: float | None = None
    labels: tuple[tuple[float, float, str], ...] = ()


def draw_line_panel(plot: LinePlot, legend: dict[str, LineStyle], width: float, height: float) -> Panel:
    """Draw a plot of lines.

    Lines that coincide stay visible: the lower one is drawn wider. The description names them.

    Args:
        plot: What to draw.
        legend: Style of each line by its name.
        width: Width in pixels.
        height: Height in pixels.

    Returns:
        The plot.
    """
    frame = draw_frame(plot.title, plot.x_axis, plot.y_axis, width, height)
    lines = list(filter(attrgetter("points"), plot.lines))
    positions = {line.name: _line_positions(line, frame) for line in lines}
    covering = _find_coincident(lines, positions)
    names = list(legend)
    parts = [frame.grid]
    if plot.threshold is not None:
        threshold_y = number(frame.y(plot.threshold))
        parts.append(element("path", class_="th", d=f"M{number(frame.x.start)} {threshold_y}H{number(frame.x.end)}"))
    for line in lines:
        style = legend[line.name]
        content = _draw_line(line, style, frame, positions[line.name], len(covering[line.name]))
        parts.append(element("g", content, class_=f"s c-{style.colour}", data_s=names.index(line.name)))
    for x, y, label in plot.labels:
        parts.append(text(label, frame.x(x) + 8, frame.y(y) - 6, class_="v"))
    parts.append(frame.labels)
    description = " ".join(filter(None, [plot.description, *map(_describe_coincident, covering.items())]))
    return Panel(plot.title, description, width, height, "".join(parts), frame.layout)


def _describe_coincident(item: tuple[str, list[str]]) -> str:
    name, others = item
    if not others:
        return ""
    return f"The line of {sanitize_text(name)} is drawn wider, because {format_list(others)} coincides with it."


def _line_positions(line: Line, frame: Frame) -> list[Position]:
    return [(frame.x(point.x), frame.y(point.y)) for point in line.points]


def _find_coincident(lines: Sequence[Line], positions: dict[str, list[Position]]) -> dict[str, list[str]]:
    """Return the names of the later lines that cover each line."""
    covering: dict[str, list[str]] = {line.name: [] for line in lines}
    for index, line in enumerate(lines):
        for other in lines[index + 1 :]:
            distance = overlap_in_pixels(positions[line.name], positions[other.name])
            if line.is_connected and other.is_connected and distance <= COINCIDENT:
                covering[line.name].append(sanitize_text(other.name))
    return covering


def _draw_line(line: Line, style: LineStyle, frame: Frame, positions: list[Position], covered: int) -> str:
    clipped = []
    if line.band is not None:
        clipped.append(_draw_band(line.band, frame, line.key))
    for point in line.points:
        if point.low is not None and point.high is not None:
            data = f"M{number(frame.x(point.x))} {number(frame.y(point.low))}V{number(frame.y(point.high))}"
            clipped.append(element("path", class_="i", d=data))
        if point.high is not None and point.is_high_open:
            tip = f"{number(frame.x(point.x))} {number(frame.y(point.high) - 4)}"
            clipped.append(element("path", class_="e", d=f"M{tip}m-5 6l5-6l5 6"))
    if len(positions) > 1 and line.is_connected:
        css_class = f"l u{min(covered, 3)}" if covered else "l"
        clipped.append(draw_line(positions, style.dash, css_class, data_k=line.key))
    marks = [frame.clip("".join(clipped))] if clipped else []
    for point, position in zip(line.points, positions, strict=True):
        if point.tooltip and frame.y.contains(point.y) and frame.x.contains(point.x):
            radius = point.radius + 1.6 * min(covered, 3)
            marks.append(draw_symbol(style.shape, position, radius, "m", point.tooltip))
    for ring in line.rings:
        position = (frame.x(ring.x), frame.y(ring.y))
        marks.append(draw_symbol(ring.shape, position, RING_RADIUS + 2.0 * min(covered, 3), "o", ring.tooltip))
    return "".join(marks)


def _draw_band(band: tuple[tuple[Position, ...], tuple[Position, ...]], frame: Frame, key: int | None) -> str:
    lower, upper = band
    edge = [*upper, *reversed(lower)]
    data = path_data([(frame.x(x), frame.y(y)) for x, y in edge]) + "Z"
    return element("path", class_="band", d=data, data_b=key)
