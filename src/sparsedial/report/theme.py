"""How every figure looks: one theme, and for each site its own colour and shape.

The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

COLOURS = {"input": "#0072B2", "up": "#E69F00", "gate": "#009E73", "intermediate": "#D55E00", "all_inputs": "#222222"}
SHAPES = {
    "input": "circle",
    "up": "triangle-up",
    "gate": "triangle-down",
    "intermediate": "square",
    "all_inputs": "diamond",
}
SPARE = ("#CC79A7", "#56B4E9", "#999999")  # for sites of which this module has not heard
FAMILIES = ("#4E79A7", "#B07AA1", "#76B7B2", "#9C755F", "#E15759", "#59A14F")  # lines that are not sites
FAMILY_SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")
SHADES = ("#F3F7FB", "#08519C")  # of a heat map: nothing dropped, most dropped
INK, PALE = "#333333", "#E4E4E4"
FONT = "Arial, Helvetica, Liberation Sans, sans-serif"
THEME: dict[str, Any] = {
    "aria": False,  # the page gives each figure one text; a label per mark would only be noise
    "background": "white",
    "font": FONT,
    "padding": 12,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal", "titlePadding": 10,
        "labelColor": INK, "titleColor": INK, "gridColor": PALE, "domainColor": "#888888", "tickColor": "#888888",
        "labelLimit": 400, "titleLimit": 600, "labelFlush": False,
    },
    "legend": {
        "orient": "top", "title": None, "labelFontSize": 13, "labelColor": INK, "labelLimit": 400, "symbolSize": 90,
        "symbolOpacity": 1, "columnPadding": 18,
    },
    "header": {"title": None, "labelFontSize": 13, "labelFontWeight": "bold", "labelColor": INK, "labelLimit": 600},
    "title": {
        "anchor": "start", "fontSize": 16, "color": INK, "subtitleFontSize": 12.5, "subtitleColor": "#555555",
        "subtitlePadding": 6, "offset": 14, "limit": 1000,
    },
}  # fmt: skip


def of_sites(sites: Sequence[str], known: dict[str, str], spare: Sequence[str]) -> list[str]:
    """Each site's own colour or shape; sites that have none take the spare ones in turn."""
    unknown = [site for site in sites if site not in known]
    return [known.get(site) or spare[unknown.index(site) % len(spare)] for site in sites]


def site_scale(sites: Sequence[str], known: dict[str, str], spare: Sequence[str]) -> alt.Scale:
    """The scale that gives these sites, in this order, their colours or shapes."""
    return alt.Scale(domain=list(sites), range=of_sites(sites, known, spare))
