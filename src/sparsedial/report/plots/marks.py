"""Shapes of points, lines and intervals as SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sparsedial.report.plots.svg_elements import element, number, title

Position = tuple[float, float]

SHAPES = {
    "circle": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0Z",
    "square": "M-.9-.9H.9V.9H-.9Z",
    "diamond": "M0-1.25L1.25 0L0 1.25L-1.25 0Z",
    "triangle-up": "M0-1.2L1.15.9H-1.15Z",
    "triangle-down": "M0 1.2L1.15-.9H-1.15Z",
    "triangle-left": "M-1.2 0L.9-1.15V1.15Z",
    "triangle-right": "M1.2 0L-.9-1.15V1.15Z",
    "cross": "M-.35-1.15H.35V-.35H1.15V.35H.35V1.15H-.35V.35H-1.15V-.35H-.35Z",
}
"""Path of each shape with a radius of 1."""


def draw_symbol(shape: str, position: Position, radius: float, css_class: str = "m", tooltip: str = "") -> str:
    """Return one point.

    Args:
        shape: Name of a shape in `SHAPES`.
        position: Position of its centre in pixels.
        radius: Radius in pixels.
        css_class: Class of the element: ``m`` for a filled point, ``o`` for an open one.
        tooltip: Text that a browser shows, not escaped. Defaults to none.
    """
    transform = f"translate({number(position[0])} {number(position[1])})scale({number(radius)})"
    content = ""
    if tooltip:
        content = title(tooltip)
    return element("path", content, class_=css_class, transform=transform, d=SHAPES[shape])


def draw_line(positions: Iterable[Position], dash: str = "", css_class: str = "l", **attributes: Any) -> str:
    """Return a line through some positions.

    Args:
        positions: At least two positions in pixels.
        dash: Dash pattern. Defaults to a solid line.
        css_class: Classes of the element. Defaults to ``l``.
        **attributes: Further attributes, see `element`.
    """
    return element("path", class_=css_class, d=path_data(positions), stroke_dasharray=dash or None, **attributes)


def path_data(positions: Iterable[Position]) -> str:
    """Return the data of a path through some positions.

    Args:
        positions: Positions in pixels.

    Example:
        >>> path_data([(0, 1), (2.5, 3)])
        'M0 1L2.5 3'
    """
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in positions)


def overlap_in_pixels(first: Sequence[Position], second: Sequence[Position]) -> float:
    """Return the largest vertical distance of two lines where both are drawn.

    Args:
        first: Positions of a line, in the order of x.
        second: Positions of another line.

    Returns:
        The distance in pixels. Infinity if the lines share less than half of the extent of either.
    """
    import numpy as np

    if len(first) < 2 or len(second) < 2:
        return float("inf")
    low = max(first[0][0], second[0][0])
    high = min(first[-1][0], second[-1][0])
    longest = max(first[-1][0] - first[0][0], second[-1][0] - second[0][0])
    if high <= low or high - low < 0.5 * longest:
        return float("inf")
    positions = np.linspace(low, high, 24)
    heights = [np.interp(positions, *np.transpose(line)) for line in (first, second)]
    return float(np.max(np.abs(heights[0] - heights[1])))
