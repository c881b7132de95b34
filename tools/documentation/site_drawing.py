"""Draw an FFN with the vectors of one token: which entries are dropped, and which columns of weights are not needed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

ENTRIES = 24
"""Number of entries of each vector that are drawn: the first ones."""

CELL, GAP, LEFT, TOP = 9, 64, 30, 70
SIZE = ENTRIES * CELL
MATRIX_TOP = TOP + CELL + 8
KEPT_COLOR, WEIGHT_COLOR = "#2f6fb0", "#c9d6e4"
WIDTH, HEIGHT = LEFT + 3 * SIZE + 3 * (GAP + CELL), MATRIX_TOP + SIZE + 34


def draw_sites(vectors: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray]) -> str:
    """Return an SVG of the three matrices of an FFN, each below the vector that it reads.

    Args:
        vectors: The vectors x, u, g and i of one token.
        kept: Boolean masks of the entries of x and i that the rule keeps.

    Returns:
        The SVG. Dropped entries, and the columns of the matrices that they would be multiplied by, are white.
    """
    parts = [
        ("x", "x: input", "W_u", "u", "u = W_u x"),
        ("x", "x: input", "W_g", "g", "g = σ(W_g x)"),
        ("i", "i = u ⊙ g: intermediate", "W_d", None, ""),
    ]
    shapes = []
    for place, (read, title, matrix, output, output_title) in enumerate(parts):
        left = LEFT + place * (SIZE + GAP + CELL)
        mask = kept[read][:ENTRIES]
        note = f"{np.count_nonzero(~mask)} of {ENTRIES} dropped"
        middle = left + SIZE / 2
        shapes += [label(middle, TOP - 30, title), label(middle, TOP - 12, note)]
        shapes += [draw_row(vectors[read], left, mask), draw_matrix(left, mask)]
        shapes.append(label(middle, MATRIX_TOP + SIZE + 20, matrix))
        if output is not None:
            x = left + SIZE + GAP / 3
            shapes += [draw_column(vectors[output], x), label(x + CELL / 2, MATRIX_TOP + SIZE + 20, output_title)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    return "\n".join([head, background, *shapes, "</svg>"]) + "\n"


def draw_row(vector: np.ndarray, left: float, kept: np.ndarray) -> str:
    """Return the entries of a vector from left to right, darker if they are larger, with dropped ones white."""
    opacities = strengths(vector) * kept
    return "\n".join(cell(left + CELL * index, TOP, CELL, KEPT_COLOR, value) for index, value in enumerate(opacities))


def draw_column(vector: np.ndarray, x: float) -> str:
    """Return the entries of a vector from top to bottom, darker if they are larger."""
    cells = []
    for index, value in enumerate(strengths(vector)):
        cells.append(cell(x, MATRIX_TOP + CELL * index, CELL, KEPT_COLOR, value))
    return "\n".join(cells)


def draw_matrix(left: float, kept: np.ndarray) -> str:
    """Return the columns of a matrix, white where they are not read."""
    columns = []
    for index, is_kept in enumerate(kept):
        columns.append(cell(left + CELL * index, MATRIX_TOP, SIZE, WEIGHT_COLOR, float(is_kept)))
    return "\n".join(columns)


def strengths(vector: np.ndarray) -> np.ndarray:
    """Return the magnitudes of the first entries, between 0 and 1, on a scale on which small ones are visible."""
    magnitudes = np.abs(vector[:ENTRIES])
    return np.sqrt(magnitudes / magnitudes.max())


def label(x: float, y: float, text: str) -> str:
    """Return a centred text."""
    return f'<text x="{x}" y="{y}" font-size="13" text-anchor="middle" fill="#333">{text}</text>'


def cell(x: float, y: float, height: float, fill: str, opacity: float) -> str:
    """Return one rectangle."""
    place = f'x="{x}" y="{y}" width="{CELL}" height="{height}"'
    return f'<rect {place} fill="{fill}" fill-opacity="{opacity:.2f}" stroke="#999" stroke-width="0.4"/>'
