"""The theme of all figures, with a colour and a shape for each site.

The colours of the sites are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import altair as alt

SITE_COLOURS = {
    "input": "#0072B2",
    "up": "#E69F00",
    "gate": "#009E73",
    "intermediate": "#D55E00",
    "all_inputs": "#222222",
    "attention_input": "#56B4E9",
    "attention_output": "#CC79A7",
    "lm_head_input": "#999999",
}
SITE_SHAPES = {
    "input": "circle",
    "up": "triangle-up",
    "gate": "triangle-down",
    "intermediate": "square",
    "all_inputs": "diamond",
    "attention_input": "triangle-left",
    "attention_output": "triangle-right",
    "lm_head_input": "cross",
}
SPARE_COLOURS = ("#882255", "#44AA99", "#DDCC77")
"""Colours of sites that are not in `SITE_COLOURS`."""

SPARE_SHAPES = ("stroke",)
"""Shapes of sites that are not in `SITE_SHAPES`."""

SERIES_COLOURS = ("#4E79A7", "#B07AA1", "#76B7B2", "#9C755F", "#E15759", "#59A14F")
"""Colours of lines that are not sites, such as families of models."""

SERIES_SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")

HEAT_MAP_COLOURS = ["#F3F7FB", "#08519C"]
"""Colours of the lowest and of the highest sparsity in a heat map."""

TEXT_COLOUR = "#333333"
SUBTITLE_COLOUR = "#555555"
AXIS_COLOUR = "#888888"
GRID_COLOUR = "#E4E4E4"
FONT = "Arial, Helvetica, Liberation Sans, sans-serif"

THEME: dict[str, Any] = {
    "aria": False,  # the page gives each figure one description, and a label per mark would only be noise
    "background": "white",
    "font": FONT,
    "padding": 12,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal", "titlePadding": 10,
        "labelColor": TEXT_COLOUR, "titleColor": TEXT_COLOUR, "gridColor": GRID_COLOUR, "domainColor": AXIS_COLOUR,
        "tickColor": AXIS_COLOUR, "labelLimit": 400, "titleLimit": 600, "labelFlush": False,
    },
    "legend": {
        "orient": "top", "title": None, "labelFontSize": 13, "labelColor": TEXT_COLOUR, "labelLimit": 400,
        "symbolSize": 90, "symbolOpacity": 1, "columnPadding": 18,
    },
    "header": {
        "title": None, "labelFontSize": 13, "labelFontWeight": "bold", "labelColor": TEXT_COLOUR, "labelLimit": 600,
    },
    "title": {
        "anchor": "start", "fontSize": 16, "color": TEXT_COLOUR, "subtitleFontSize": 12.5,
        "subtitleColor": SUBTITLE_COLOUR, "subtitlePadding": 6, "offset": 14, "limit": 1000,
    },
}  # fmt: skip


def site_values(sites: Sequence[str], values: dict[str, str], spare_values: Sequence[str]) -> list[str]:
    """Return the colour or shape of each site.

    Args:
        sites: Names of the sites.
        values: Colour or shape of each known site.
        spare_values: Values for the other sites, used in turn.

    Returns:
        One value per site.
    """
    spare = cycle(spare_values)
    result = []
    for site in sites:
        if site in values:
            result.append(values[site])
        else:
            result.append(next(spare))
    return result


def cycle_values(values: Sequence[str], count: int) -> list[str]:
    """Return a number of values, which are repeated as often as necessary.

    Args:
        values: The values to repeat.
        count: Number of values to return.

    Returns:
        The values.

    Example:
        >>> cycle_values(("a", "b"), 3)
        ['a', 'b', 'a']
    """
    return list(islice(cycle(values), count))


def site_colour_scale(sites: Sequence[str]) -> alt.Scale:
    """Return the scale that gives sites their colours.

    Args:
        sites: Names of the sites, in the order of the legend.

    Returns:
        The scale.
    """
    return alt.Scale(domain=list(sites), range=site_values(sites, SITE_COLOURS, SPARE_COLOURS))


def site_shape_scale(sites: Sequence[str]) -> alt.Scale:
    """Return the scale that gives sites their shapes.

    Args:
        sites: Names of the sites, in the order of the legend.

    Returns:
        The scale.
    """
    return alt.Scale(domain=list(sites), range=site_values(sites, SITE_SHAPES, SPARE_SHAPES))
