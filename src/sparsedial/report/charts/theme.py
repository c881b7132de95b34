"""The style of the figures for publications, with a colour and a shape for each site.

The colours of the sites are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

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

TEXT_COLOUR = "#333333"
AXIS_COLOUR = "#888888"
GRID_COLOUR = "#E4E4E4"
FONT = "Arial, Helvetica, Liberation Sans, sans-serif"


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
