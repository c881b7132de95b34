"""A figure as one SVG file: its heading, its legend and its panels."""

from __future__ import annotations

import textwrap
from operator import attrgetter

from sparsedial.report.plots.chart_style import standalone_css
from sparsedial.report.plots.figure import NARROW, Figure, Panel
from sparsedial.report.plots.marks import draw_symbol
from sparsedial.report.plots.palette import LIGHT, LineStyle
from sparsedial.report.plots.svg_elements import element, fit_text, number, text, text_width

NAMESPACE = "http://www.w3.org/2000/svg"
MARGIN = 16
GAP = 20
KEY_WIDTH = 34
LEGEND_HEIGHT = 24
NOTE_HEIGHT = 17
HEADING_SIZE = 16


def make_standalone_svg(figure: Figure) -> str:
    """Return a figure as the text of an SVG file.

    Args:
        figure: The figure.

    Returns:
        SVG with its own style sheet, on a white background. It refers to no other file.
    """
    columns = figure.column_count
    inner_width = figure.widest * columns + GAP * (columns - 1)
    width = max(inner_width, 520.0) + 2 * MARGIN
    parts = [element("rect", width=width, height="100%", fill=LIGHT["background"])]
    y = MARGIN + 16.0
    heading = fit_text(figure.heading, width - 2 * MARGIN, HEADING_SIZE)
    parts.append(text(heading, MARGIN, y, class_="n", font_size=HEADING_SIZE, font_weight=600))
    for line in textwrap.wrap(" ".join(figure.notes), int((width - 2 * MARGIN) / 6.2)):
        y += NOTE_HEIGHT
        parts.append(text(line, MARGIN, y, class_="t"))
    y += 12
    legend, y = _draw_legend(figure.legend, y, width)
    parts.append(legend)
    for start in range(0, len(figure.panels), columns):
        row = figure.panels[start : start + columns]
        for index, panel in enumerate(row):
            parts.append(_position_panel(panel, MARGIN + index * (NARROW + GAP), y))
        y += max(map(attrgetter("height"), row)) + GAP
    style = f"<style>{standalone_css()}</style>"
    return element(
        "svg",
        f"{style}{''.join(parts)}",
        xmlns=NAMESPACE,
        width=width,
        height=y,
        viewBox=f"0 0 {number(width)} {number(y)}",
    )


def draw_key(style: LineStyle) -> str:
    """Return the line and the point of a legend entry, 34 by 14 pixels.

    Args:
        style: How the line looks.
    """
    line = element("path", class_="l", d=f"M1 7H{KEY_WIDTH - 1}", stroke_dasharray=style.dash or None)
    return line + draw_symbol(style.shape, (KEY_WIDTH / 2, 7.0), 4.5)


def _draw_legend(legend: dict[str, LineStyle], top: float, width: float) -> tuple[str, float]:
    """Return the legend, with line breaks, and the position below it."""
    if not legend:
        return "", top
    parts = []
    x = float(MARGIN)
    y = top
    for name, style in legend.items():
        needed = KEY_WIDTH + 8 + text_width(name, 13) + 18
        if x > MARGIN and x + needed > width - MARGIN:
            x = float(MARGIN)
            y += LEGEND_HEIGHT
        key = element("g", draw_key(style), class_=f"c-{style.colour}", transform=f"translate({number(x)} {number(y)})")
        parts.append(key + text(name, x + KEY_WIDTH + 6, y + 11, class_="n"))
        x += needed
    return "".join(parts), y + LEGEND_HEIGHT + 4


def _position_panel(panel: Panel, x: float, y: float) -> str:
    return element(
        "svg",
        panel.content,
        x=x,
        y=y,
        width=panel.width,
        height=panel.height,
        viewBox=f"0 0 {number(panel.width)} {number(panel.height)}",
    )
