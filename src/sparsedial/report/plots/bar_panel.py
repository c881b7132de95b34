"""Histograms."""

from __future__ import annotations

from collections.abc import Sequence

from sparsedial.report.plots.figure import Panel
from sparsedial.report.plots.palette import LineStyle
from sparsedial.report.plots.plot_frame import Axis, draw_frame, format_share, format_whole
from sparsedial.report.plots.scales import integer_ticks
from sparsedial.report.plots.svg_elements import element, number


def draw_histogram(
    panel_title: str, counts: Sequence[int], highest: int, style: LineStyle, key: int | None, size: tuple[float, float]
) -> Panel:
    """Draw the number of experts in each bin of sparsity.

    Args:
        panel_title: Title of the plot. Empty for none.
        counts: Number of experts in each bin between sparsity 0 and 1.
        highest: Number at the end of the axis.
        style: Colour of the bars.
        key: Index of the numbers that the script draws for another value of p.
        size: Width and height in pixels.

    Returns:
        The plot.
    """
    x_axis = Axis("sparsity (share dropped)", 0.0, 1.0, format_share)
    y_axis = Axis("experts of all layers", 0.0, float(max(1, highest)), format_whole,
                  integer_ticks(0.0, float(max(1, highest)), 5))  # fmt: skip
    frame = draw_frame(panel_title, x_axis, y_axis, *size)
    bars = ""
    for index, count in enumerate(counts):
        if count:
            start = number(frame.x(index / len(counts)) + 0.5)
            end = number(frame.x((index + 1) / len(counts)) - 0.5)
            bars += f"M{start} {number(frame.y.start)}V{number(frame.y(count))}H{end}V{number(frame.y.start)}Z"
    path = element("path", class_="m", d=bars or "M0 0", data_h=key)
    group = element("g", path, class_=f"s c-{style.colour}", data_s=0)
    filled = [index for index, count in enumerate(counts) if count]
    description = f"{panel_title}: no expert."
    if filled:
        low = format_share(filled[0] / len(counts))
        high = format_share((filled[-1] + 1) / len(counts))
        description = f"{panel_title}: {sum(counts)} experts between {low} and {high} of sparsity."
    return Panel(panel_title, description, size[0], size[1], frame.grid + group + frame.labels, frame.layout)
