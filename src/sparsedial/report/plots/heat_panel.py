"""Heat maps: a grid of numbers whose shade shows their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsedial.report.plots.figure import Panel
from sparsedial.report.plots.palette import PALETTES, contrast, mix_colours
from sparsedial.report.plots.plot_frame import TITLE_HEIGHT, TITLE_SIZE
from sparsedial.report.plots.svg_elements import element, fit_text, number, text, text_width, title

SHADES = 10
"""Number of shades of a heat map."""

LABEL_SIZE = 12
MAX_LABEL_WIDTH = 150.0
SMALLEST_EXTENT = 1e-9
TILT = 40
MAX_NUMBERS_PER_ROW = 16
"""A heat map with more columns shows no numbers in its cells, and labels only some of its columns."""


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map.

    Attributes:
        value: The number that decides the shade.
        label: Text in the cell.
        detail: Smaller text below it.
        tooltip: Text that is shown on demand.
    """

    value: float
    label: str
    detail: str
    tooltip: str


@dataclass(frozen=True)
class HeatMap:
    """A heat map.

    Attributes:
        panel_title: Title of the plot. Empty for none.
        description: Text alternative.
        rows: Names of the rows, from top to bottom.
        columns: Names of the columns.
        cells: The cells by row and column. Missing ones are offset empty.
        highest: Number with the darkest shade.
        lowest: Number with the lightest shade. Defaults to 0.
        row_title: What the rows are. Defaults to nothing.
        column_title: What the columns are. Defaults to nothing.
    """

    panel_title: str
    description: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]
    highest: float
    lowest: float = 0.0
    row_title: str = ""
    column_title: str = ""


def draw_heat_panel(heat_map: HeatMap) -> Panel:
    """Draw a heat map.

    Args:
        heat_map: What to draw.

    Returns:
        The plot. It keeps its width on a small screen if it has numbers in its cells.
    """
    shows_numbers = len(heat_map.columns) <= MAX_NUMBERS_PER_ROW
    cell_width, cell_height = _choose_cell_size(heat_map, shows_numbers)
    offset = 10 + _label_width(heat_map.rows)
    longest = _label_width(heat_map.columns)
    is_tilted = shows_numbers and longest > cell_width - 6
    top = 24.0
    width = offset + cell_width * len(heat_map.columns) + 12
    if is_tilted:
        top += 0.66 * longest
        width += 0.75 * longest
    parts = []
    if heat_map.panel_title:
        top += TITLE_HEIGHT
        parts.append(text(fit_text(heat_map.panel_title, width - 8, TITLE_SIZE + 1), 4, 16, class_="h"))
    if heat_map.column_title:
        parts.append(text(heat_map.column_title, offset + cell_width * len(heat_map.columns), top - 20 + 8,
                          class_="t", text_anchor="end"))  # fmt: skip
        top += 14
    parts += _draw_labels(heat_map, offset, top, (cell_width, cell_height), is_tilted, shows_numbers)
    for row_index, row in enumerate(heat_map.rows):
        for column_index, column in enumerate(heat_map.columns):
            cell = heat_map.cells.get((row, column))
            if cell is not None:
                corner = (offset + cell_width * column_index, top + cell_height * row_index)
                parts.append(_draw_cell(cell, heat_map, corner, (cell_width, cell_height), shows_numbers))
    height = top + cell_height * len(heat_map.rows) + 10
    return Panel(heat_map.panel_title, heat_map.description, width, height, "".join(parts), is_scrolled=shows_numbers)


def _choose_cell_size(heat_map: HeatMap, shows_numbers: bool) -> tuple[float, float]:
    """Return the width and the height of a cell in pixels."""
    if shows_numbers:
        return 90.0, 42.0
    width = max(3.0, min(14.0, 420.0 / len(heat_map.columns)))
    return width, max(6.0, min(16.0, 260.0 / len(heat_map.rows)))


def _label_width(names: Sequence[str]) -> float:
    """Return the width of the longest label in pixels. Longer ones than `MAX_LABEL_WIDTH` are shortened."""
    return min(MAX_LABEL_WIDTH, text_width(max(names, key=len), LABEL_SIZE))


def _draw_labels(
    heat_map: HeatMap, offset: float, top: float, size: tuple[float, float], is_tilted: bool, shows_numbers: bool
) -> list[str]:
    cell_width, cell_height = size
    parts = []
    row_step = max(1, round(13 / cell_height + 0.3))
    for index, name in enumerate(heat_map.rows):
        if index % row_step == 0:
            label = fit_text(name, MAX_LABEL_WIDTH, LABEL_SIZE)
            y = top + cell_height * (index + 0.5) + 4
            parts.append(text(label, offset - 8, y, class_="f", text_anchor="end"))
    if heat_map.row_title:
        parts.append(text(heat_map.row_title, 4, top - 6, class_="f"))
    column_step = max(1, round(34 / cell_width))
    for index, name in enumerate(heat_map.columns):
        if index % column_step:
            continue
        label = fit_text(name, MAX_LABEL_WIDTH, LABEL_SIZE)
        x = offset + cell_width * (index + 0.5)
        if is_tilted:
            rotation = f"rotate(-{TILT} {number(x)} {number(top - 8)})"
            parts.append(text(label, x, top - 8, class_="f", transform=rotation))
        else:
            parts.append(text(label, x, top - 6, class_="f", text_anchor="middle"))
    return parts


def _draw_cell(
    cell: Cell, heat_map: HeatMap, corner: tuple[float, float], size: tuple[float, float], shows_numbers: bool
) -> str:
    x, y = corner
    width, height = size
    extent = max(heat_map.highest - heat_map.lowest, SMALLEST_EXTENT)
    share = (cell.value - heat_map.lowest) / extent
    shade = min(SHADES - 1, max(0, int(share * SHADES)))
    gap = 2.0 * shows_numbers
    content = title(cell.tooltip)
    content += element("rect", class_="hc", x=x, y=y, width=width - gap, height=height - gap)
    if shows_numbers:
        middle = x + (width - gap) / 2
        content += text(cell.label, middle, y + 18, class_="hv", text_anchor="middle")
        content += text(cell.detail, middle, y + 32, class_="hd", text_anchor="middle")
    return element("g", content, class_=f"r k{shade}")


def shade_variables(is_dark: bool) -> dict[str, str]:
    """Return the colours of the shades and of the text on them.

    Args:
        is_dark: True for a dark background.

    Returns:
        Colours by the names ``heat-0``, ``heat-text-0``, and so on.
    """
    colours = PALETTES[is_dark]
    variables = {}
    for shade in range(SHADES):
        colour = mix_colours(colours["heat-low"], colours["heat-high"], shade / (SHADES - 1))
        variables[f"heat-{shade}"] = colour
        variables[f"heat-text-{shade}"] = max(("#ffffff", "#000000"), key=lambda text: contrast(text, colour))
    return variables
