"""The style sheet of the charts, shared by the page and by files with a single figure."""

from __future__ import annotations

from sparsedial.report.plots.heat_panel import SHADES, shade_variables
from sparsedial.report.plots.palette import PALETTES, SERIES_COLOURS, SITE_COLOURS, SPARE_COLOURS, resolve_variables

FONT = "system-ui, 'Segoe UI', Arial, Helvetica, 'Liberation Sans', 'DejaVu Sans', sans-serif"

_BASE = """
.t, .f { fill: var(--soft); font-size: 12px; }
.h { fill: var(--ink); font-size: 13px; font-weight: 600; }
.n, .v { fill: var(--ink); font-size: 13px; stroke: var(--background); stroke-width: 4px; paint-order: stroke; }
.v { font-size: 12px; }
.g { fill: none; stroke: var(--grid); }
.ax { fill: none; stroke: var(--axis); }
.th { fill: none; stroke: var(--ink); stroke-dasharray: 5 4; stroke-width: 1.2; }
.l, .e { fill: none; stroke-width: 2; }
.l { stroke-linejoin: round; }
.u1 { stroke-width: 6.5; opacity: .55; }
.u2 { stroke-width: 10.5; opacity: .5; }
.u3 { stroke-width: 14.5; opacity: .45; }
.i { fill: none; stroke-width: 5; opacity: .25; }
.o { fill: var(--background); stroke-width: .3; }
.band { opacity: .22; }
.hit { fill: transparent; }
.hv { font-size: 13px; }
.hd { font-size: 10.5px; }
"""


def chart_css() -> str:
    """Return the style sheet, in which colours are variables."""
    rules = [_BASE]
    for colour in (*SITE_COLOURS, *SPARE_COLOURS, *SERIES_COLOURS):
        rules.append(
            f".c-{colour} .l, .c-{colour} .e, .c-{colour} .i, .c-{colour} .o {{ stroke: var(--{colour}); }}\n"
            f".c-{colour} .m, .c-{colour} .band {{ fill: var(--{colour}); }}\n"
        )
    for shade in range(SHADES):
        rules.append(
            f".k{shade} .hc {{ fill: var(--heat-{shade}); }} .k{shade} text {{ fill: var(--heat-text-{shade}); }}\n"
        )
    return "".join(rules)


def page_colours(is_dark: bool) -> dict[str, str]:
    """Return the colours of the page and of its charts by name.

    Args:
        is_dark: True for a dark background.
    """
    return {**PALETTES[is_dark], **shade_variables(is_dark)}


def standalone_css() -> str:
    """Return the style sheet of a file with a single figure, on a light background."""
    resolved = resolve_variables(chart_css(), page_colours(is_dark=False))
    return f"text {{ font-family: {FONT}; }}\n{resolved}"
