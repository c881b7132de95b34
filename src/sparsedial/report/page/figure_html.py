"""Figures as HTML: a heading, notes, a legend, the plots and their numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sparsedial.report.page.html_elements import escape, fold, render_bare_table
from sparsedial.report.plots.figure import Figure, Panel
from sparsedial.report.plots.palette import LineStyle
from sparsedial.report.plots.standalone_svg import draw_key
from sparsedial.report.plots.svg_elements import element, number

EXPERT_FIGURES = "experts"
LAYER_FIGURES = "layers"


def render_figures(figures: Iterable[Figure]) -> str:
    """Return figures as HTML.

    Args:
        figures: The figures, in order.
    """
    return "".join(map(render_figure, figures))


def render_figure(figure: Figure) -> str:
    """Return one figure as HTML.

    Args:
        figure: The figure.
    """
    notes = "".join(f"<p>{escape(note)}</p>" for note in figure.notes)
    caption = f'<figcaption><h3>{escape(figure.heading)}</h3><div class="notes">{notes}</div></figcaption>'
    css_class = "plots"
    if figure.column_count > 1:
        css_class = "plots several"
    plots = "".join(map(_render_panel, figure.panels))
    label = escape(f"{figure.heading}. The arrow keys move through its points.")
    return (
        f'<figure id="{escape(figure.name)}" class="chart"{_script_attributes(figure)}>{caption}'
        f'{_render_legend(figure.legend)}<div class="{css_class}" tabindex="0" role="group" aria-label="{label}">'
        f"{plots}</div>{_render_numbers(figure)}</figure>"
    )


def _script_attributes(figure: Figure) -> str:
    if not figure.p_values:
        return ""
    kind = LAYER_FIGURES
    if figure.name.startswith(EXPERT_FIGURES):
        kind = EXPERT_FIGURES
    values = escape(json.dumps(list(figure.p_values)))
    return f' data-kind="{kind}" data-p="{values}"'


def _render_panel(panel: Panel) -> str:
    css_class = "plot"
    if panel.is_scrolled:
        css_class = "plot fixed"
    view = f"0 0 {number(panel.width)} {number(panel.height)}"
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in panel.layout.items())
    size = f' width="{number(panel.width)}" height="{number(panel.height)}"'
    return (
        f'<svg class="{css_class}" viewBox="{view}"{size} role="img" aria-label="{escape(panel.description)}"'
        f"{attributes}>{panel.content}</svg>"
    )


def _render_legend(legend: dict[str, LineStyle]) -> str:
    if not legend:
        return ""
    items = []
    for index, (name, style) in enumerate(legend.items()):
        key = element("svg", draw_key(style), class_="key", width=34, height=14, aria_hidden="true")
        items.append(f'<li class="c-{style.colour}" data-s="{index}">{key}<span>{escape(name)}</span></li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _render_numbers(figure: Figure) -> str:
    """Return the numbers of a figure, collapsed, or a link to the table that has them."""
    if figure.numbers is not None:
        return fold(
            "Numbers of this figure", render_bare_table(figure.numbers, label=f"Numbers: {figure.heading}"), "numbers"
        )
    if figure.name.startswith("differences"):
        return ""
    return '<p class="numbers">The numbers are in the table <a href="#points">All measured points</a>.</p>'
