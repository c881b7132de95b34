"""Figure of generation tasks: score, length of the texts and share of cut-off texts over sparsity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import altair as alt
import pandas as pd

from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.row_order import layer_ranges
from sparsedial.report.charts.common import CURVE_COLUMNS, Row, chart_rows, drop_missing, name_panels, ordered_sites
from sparsedial.report.publication.panels import PANEL_SPACING, PANEL_WIDTHS, THEME, count_columns
from sparsedial.report.publication.retention import sparsity_axis
from sparsedial.report.publication.series import (
    LINE_WIDTH,
    POINT_SIZE,
    SeriesStyle,
    encode_series,
    make_data,
    site_styles,
)

HEIGHT = 90
CURVE_KEY = (*CURVE_COLUMNS, "site")


@dataclass(frozen=True)
class _Quantity:
    """A quantity that is drawn over sparsity, in a row of panels of its own."""

    column: str
    title: str
    axis: alt.Axis


QUANTITIES = (
    _Quantity("score", "score", alt.Axis(format=".2f", tickCount=4)),
    _Quantity("generated_tokens", "tokens per text", alt.Axis(format=",d", tickCount=4)),
    _Quantity("limit_hit", "cut off at the limit", alt.Axis(format=".0%", tickCount=4)),
)


def add_scores(generated: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Return the lengths of generated texts with the sparsity and the score at the same point.

    Args:
        generated: Table ``Results.generated``.
        points: Table ``Results.points``.

    Returns:
        The rows of ``generated`` for which there is a point, with ``sparsity`` and ``score``. The dense model has
        sparsity 0 and the dense score of its curve.
    """
    numbers: dict[tuple[str, ...], tuple[float, float]] = {}
    for row in points.to_dict("records"):
        curve = _curve(row)
        numbers[(*curve, _p_text(row["p"]))] = (row["sparsity"], row["score"])
        numbers[(*curve, _p_text(None))] = (0.0, row["dense_score"])
    rows = []
    for row in generated.to_dict("records"):
        key = (*_curve(row), _p_text(row["p"]))
        if key in numbers:
            sparsity, score = numbers[key]
            rows.append({**row, "sparsity": sparsity, "score": score})
    return pd.DataFrame(rows)


def draw_generation(generated: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw score, mean length and the share of texts that reached the limit over sparsity.

    There is one row of panels per quantity, one column per task, and one line per site. Quantities without numbers are
    left out.

    Args:
        generated: Rows of `add_scores` of one model.

    Returns:
        The figure.

    Raises:
        ValueError: No row can be drawn.
    """
    columns = map(attrgetter("column"), QUANTITIES)
    rows = drop_missing(chart_rows(generated, CURVE_KEY, ("sparsity", *columns)), "sparsity", "generated_tokens")
    panels = name_panels(rows, by=CURVE_COLUMNS)
    for row in rows:
        row["series"] = row["site"]
    styles = list(site_styles(ordered_sites(rows)).values())
    charts: list[alt.LayerChart | alt.FacetChart] = []
    for quantity in reversed(QUANTITIES):
        known = drop_missing(rows, quantity.column)
        x = sparsity_axis(rows, panels)
        if charts:  # only the lowest row of panels has a title of the axis
            x = x.title(None)
        if known:
            charts.insert(0, _draw_quantity(quantity, known, panels, styles, x))
    return alt.vconcat(*charts, spacing=8).configure(**THEME)


def _draw_quantity(
    quantity: _Quantity, rows: list[Row], panels: Sequence[str], styles: Sequence[SeriesStyle], x: alt.X
) -> alt.LayerChart | alt.FacetChart:
    channels = encode_series(styles)
    scale = _value_scale(row[quantity.column] for row in rows)
    base = alt.Chart().encode(
        x=x,
        y=alt.Y(f"{quantity.column}:Q", title=quantity.title, axis=quantity.axis, scale=scale),
    )
    layers = alt.layer(
        base.mark_line(strokeWidth=LINE_WIDTH).encode(**channels.line),
        base.mark_point(filled=True, size=POINT_SIZE, strokeWidth=1, opacity=1).encode(**channels.mark),
    )
    columns = count_columns(panels)
    data = make_data(sorted(rows, key=lambda row: row["sparsity"]), styles)
    plot = layers.properties(width=PANEL_WIDTHS[columns], height=HEIGHT, data=data)
    if len(panels) == 1:
        return plot
    facet = alt.Facet("panel:N", sort=list(panels), header=alt.Header(title=None))
    return plot.facet(facet=facet, columns=columns, spacing=PANEL_SPACING)


def _value_scale(values: Iterable[float]) -> alt.Scale:
    """Return a scale from 0. If all values are 0, it ends at 1, because otherwise 0 would be in its middle."""
    if max(values) > 0:
        return alt.Scale(zero=True)
    return alt.Scale(domain=[0, 1])


def _curve(row: Mapping[Any, Any]) -> tuple[str, ...]:
    texts = []
    for name in CURVE_KEY:
        texts.append(layer_ranges(row[name]) if name == "layers" else str(row[name]))
    return tuple(texts)


def _p_text(p: object) -> str:
    number = finite_number(p)
    return "dense" if number is None else f"{number:.6g}"
