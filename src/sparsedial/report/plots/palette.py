"""Colours, shapes and dashes of the charts of the page, for light and dark backgrounds.

Each line of a chart has a colour, a shape and a dash, so that it can be told apart without its colour. Every colour has
a contrast of at least 4.5 to 1 to the background.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sparsedial.analysis.row_order import unique_in_order
from sparsedial.report.charts.theme import SITE_SHAPES

LIGHT = {
    "background": "#ffffff", "surface": "#f5f6f7", "ink": "#1c1f22", "soft": "#545b62", "line": "#d9dde1",
    "grid": "#e6e9ec", "axis": "#7b838b", "link": "#00558c", "warn": "#8a4b00", "alarm": "#b00020",
    "alarm-surface": "#fff4f4", "heat-low": "#eef3f8", "heat-high": "#0b4f94",
    "input": "#0072b2", "up": "#8f6200", "gate": "#00795a", "intermediate": "#c0421b", "all_inputs": "#222222",
    "attention_input": "#14758f", "attention_output": "#a5428a", "lm_head_input": "#6a6a6a",
    "spare-0": "#882255", "spare-1": "#1d7a6d", "spare-2": "#7a6a00",
    "series-0": "#3567a3", "series-1": "#95507f", "series-2": "#1f7772", "series-3": "#86583a", "series-4": "#bb3a3e",
    "series-5": "#3f7a36",
}  # fmt: skip
"""Colours on a light background, by name."""

DARK = {
    "background": "#14171a", "surface": "#1f2428", "ink": "#e9ecef", "soft": "#abb4bc", "line": "#3a4148",
    "grid": "#2a3036", "axis": "#8d969f", "link": "#7cc0f5", "warn": "#f0b45c", "alarm": "#ff8b98",
    "alarm-surface": "#33191d", "heat-low": "#1e2a36", "heat-high": "#8cc4f7",
    "input": "#62b0f0", "up": "#e5b03a", "gate": "#3fc79a", "intermediate": "#ff8a5f", "all_inputs": "#f2f2f2",
    "attention_input": "#7ad3e8", "attention_output": "#ee97cf", "lm_head_input": "#ababab",
    "spare-0": "#ef8fb8", "spare-1": "#63d3c0", "spare-2": "#dccb57",
    "series-0": "#86b6ee", "series-1": "#e09ccb", "series-2": "#63c9c2", "series-3": "#d9a27f", "series-4": "#ff8b8e",
    "series-5": "#8fd07f",
}  # fmt: skip
"""Colours on a dark background, with the names of `LIGHT`."""

PALETTES = {False: LIGHT, True: DARK}
"""Colours by whether the background is dark."""

SITE_COLOURS = ("input", "up", "gate", "intermediate", "all_inputs", "attention_input", "attention_output",
                "lm_head_input")  # fmt: skip
SPARE_COLOURS = ("spare-0", "spare-1", "spare-2")
SERIES_COLOURS = ("series-0", "series-1", "series-2", "series-3", "series-4", "series-5")

SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "5 2 1.5 2 1.5 2", "12 4")
"""Dash patterns of lines. The first one is a solid line."""

SITE_DASHES = {
    "input": "", "up": "7 3", "gate": "2 2.5", "intermediate": "9 3 2 3", "all_inputs": "12 4",
    "attention_input": "4 4", "attention_output": "9 3 2 3 2 3", "lm_head_input": "1 3",
}  # fmt: skip


@dataclass(frozen=True)
class LineStyle:
    """Look of one line of a chart.

    Attributes:
        colour: Name of its colour in `LIGHT` and `DARK`.
        shape: Name of the shape of its points.
        dash: Dash pattern. Empty for a solid line.
    """

    colour: str
    shape: str
    dash: str


def site_styles(sites: Sequence[str]) -> dict[str, LineStyle]:
    """Return the style of each site. Built-in sites look the same in every chart.

    Args:
        sites: Names of the sites, in order.
    """
    styles = {}
    spare = 0
    for site in unique_in_order(sites):
        if site in SITE_COLOURS:
            styles[site] = LineStyle(site, SITE_SHAPES[site], SITE_DASHES[site])
        else:
            styles[site] = LineStyle(SPARE_COLOURS[spare % len(SPARE_COLOURS)], SHAPES[-1], DASHES[1 + spare % 5])
            spare += 1
    return styles


def series_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """Return the style of each line that is not a site, such as a model or a family of models.

    Args:
        names: Names of the lines, in order.
    """
    styles = {}
    for index, name in enumerate(unique_in_order(names)):
        colour = SERIES_COLOURS[index % len(SERIES_COLOURS)]
        styles[name] = LineStyle(colour, SHAPES[index % len(SHAPES)], DASHES[index % len(DASHES)])
    return styles


def colour_variables(colours: dict[str, str]) -> str:
    """Return the declarations of CSS variables of some colours.

    Args:
        colours: `LIGHT` or `DARK`.
    """
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def resolve_variables(css: str, colours: dict[str, str]) -> str:
    """Return a style sheet with values in place of its CSS variables, for files outside of the page.

    Args:
        css: Style sheet in which colours are ``var(--name)``.
        colours: `LIGHT` or `DARK`.
    """
    return re.sub(r"var\(--([\w-]+)\)", lambda match: colours[match[1]], css)


def mix_colours(low: str, high: str, share: float) -> str:
    """Return a colour between two others.

    Args:
        low: Colour at share 0, as ``#rrggbb``.
        high: Colour at share 1.
        share: Share of the second colour, between 0 and 1.

    Example:
        >>> mix_colours("#000000", "#ff8000", 0.5)
        '#804000'
    """
    channels = []
    for position in (1, 3, 5):
        start = int(low[position : position + 2], 16)
        end = int(high[position : position + 2], 16)
        channels.append(round(start + share * (end - start)))
    return "#{:02x}{:02x}{:02x}".format(*channels)


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours as WCAG defines it, between 1 and 21.

    Args:
        first: A colour as ``#rrggbb``.
        second: The other one.

    Example:
        >>> round(contrast("#000000", "#ffffff"))
        21
    """
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    total = 0.0
    for position, weight in ((1, 0.2126), (3, 0.7152), (5, 0.0722)):
        value = int(colour[position : position + 2], 16) / 255
        total += weight * _linearize(value)
    return total


def _linearize(value: float) -> float:
    """Return the linear intensity of a channel of sRGB."""
    if value <= 0.04045:
        return value / 12.92
    return float(((value + 0.055) / 1.055) ** 2.4)
