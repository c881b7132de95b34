"""The styles of the series in figures for publications.

Every series has a colour, a shape and a dash of its own, so that the figures can be read without colour. Values of a
reference have the colour and the shape of the series that they belong to, with open marks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from operator import attrgetter
from typing import Any

import altair as alt

from sparsedial.report.charts.common import Row, distinct_values
from sparsedial.report.charts.theme import (
    SITE_COLOURS,
    SITE_SHAPES,
    SPARE_COLOURS,
    SPARE_SHAPES,
    TEXT_COLOUR,
    site_values,
)

CHARACTERS_PER_LEGEND_ROW = 84
SYMBOL_CHARACTERS = 6
"""Room that a symbol of the legend and its margins take, in characters."""

SOLID = [1, 0]
SITE_DASHES = {
    "input": SOLID,
    "up": [6, 2],
    "gate": [2, 2],
    "intermediate": [8, 2, 2, 2],
    "all_inputs": [4, 3],
}
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
"""Colours of families of models, from those of Okabe and Ito."""

SIZE_COLOURS = ("#F0803C", "#DD5E66", "#B12A90", "#6A00A8", "#0D0887")
"""Colours of models by their size, from the smallest to the largest: the map plasma without its lightest part. It
grows darker evenly."""

SERIES_SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")
SERIES_DASHES = (SOLID, [6, 2], [2, 2], [8, 2, 2, 2], [4, 3])
REFERENCE_DASH = [1, 2]
REFERENCE_FILLS = ("white", "#D0D0D0", "#8C8C8C")
"""Colours inside of the marks of references, in turn: open marks, and shades of grey for further references."""

LINE_WIDTH = 1.4
POINT_SIZE = 22
INTERVAL_WIDTH = 1


@dataclass(frozen=True)
class SeriesStyle:
    """The style of one series of a chart.

    Attributes:
        name: Name of the series, in the legend and in the rows.
        colour: Colour of its lines and of the outlines of its marks.
        shape: Shape of its marks.
        dash: Dash of its lines.
        fill: Colour inside of its marks.
        is_in_legend: True if the legend lists the series.
    """

    name: str
    colour: str
    shape: str
    dash: Sequence[float]
    fill: str
    is_in_legend: bool = True

    def as_reference(self, name: str, fill: str) -> SeriesStyle:
        """Return the style for the values of a reference that belong to this series.

        Args:
            name: Name of the series of the reference.
            fill: Colour inside of the marks of the reference.
        """
        return replace(self, name=name, dash=REFERENCE_DASH, fill=fill, is_in_legend=False)


def filled_style(name: str, colour: str, shape: str, dash: Sequence[float]) -> SeriesStyle:
    """Return the style of a series that was measured here.

    Args:
        name: Name of the series.
        colour: Colour of its lines and marks.
        shape: Shape of its marks.
        dash: Dash of its lines.
    """
    return SeriesStyle(name, colour, shape, dash, fill=colour)


def add_reference_styles(
    styles: Mapping[str, SeriesStyle], references: Sequence[Row], column: str
) -> list[SeriesStyle]:
    """Return the styles of the series measured here and of those of references.

    The values of a reference have the colour and the shape of the series that they belong to. The legend gets one entry
    per reference.

    Args:
        styles: Style of each series. Those that are drawn for references only are left out of the legend.
        references: Rows of references with ``reference`` and ``column``. ``series`` is added to each.
        column: Column with the name of the series that a row belongs to.

    Returns:
        The styles, in the order of the legend.
    """
    names = distinct_values(references, "reference")
    fills = dict(zip(names, cycle(REFERENCE_FILLS), strict=False))
    extended = list(styles.values())
    added = set()
    for row in references:
        row["series"] = f"{row[column]} ({row['reference']})"
        if row["series"] not in added:
            added.add(row["series"])
            extended.append(styles[row[column]].as_reference(row["series"], fills[row["reference"]]))
    for name, fill in fills.items():
        extended.append(SeriesStyle(name, TEXT_COLOUR, "circle", REFERENCE_DASH, fill))
    return extended


def site_styles(sites: Sequence[str]) -> dict[str, SeriesStyle]:
    """Return the style of each site. It is the same in all figures.

    Args:
        sites: Names of the sites, in the order of the legend.

    Returns:
        The styles by the name of the site.
    """
    colours = site_values(sites, SITE_COLOURS, SPARE_COLOURS)
    shapes = site_values(sites, SITE_SHAPES, SPARE_SHAPES)
    styles = {}
    for site, colour, shape in zip(sites, colours, shapes, strict=True):
        styles[site] = filled_style(site, colour, shape, SITE_DASHES.get(site, SOLID))
    return styles


def series_styles(names: Sequence[str], colours: Sequence[str] = SERIES_COLOURS) -> dict[str, SeriesStyle]:
    """Return the style of each series that is not a site.

    Args:
        names: Names of the series, in the order of the legend.
        colours: Colours to use in turn.

    Returns:
        The styles by the name of the series.
    """
    styles = {}
    for name, colour, shape, dash in zip(
        names, cycle(colours), cycle(SERIES_SHAPES), cycle(SERIES_DASHES), strict=False
    ):
        styles[name] = filled_style(name, colour, shape, dash)
    return styles


def size_styles(models: Sequence[str]) -> dict[str, SeriesStyle]:
    """Return the style of each model of a family. Larger models are darker.

    Args:
        models: Names of the models, from the smallest to the largest.

    Returns:
        The styles by the name of the model.
    """
    last = len(SIZE_COLOURS) - 1
    if len(models) > len(SIZE_COLOURS):
        return series_styles(models, list(islice(cycle(SIZE_COLOURS), len(models))))
    step = last / max(len(models) - 1, 1)
    colours = []
    for index in range(len(models)):
        colours.append(SIZE_COLOURS[last - round(step * (len(models) - 1 - index))])
    return series_styles(models, colours)


@dataclass(frozen=True)
class SeriesChannels:
    """Encodings of the column ``series``. Vega-Lite merges their legends into one.

    Attributes:
        line: Channels of lines.
        mark: Channels of points.
        interval: Channels of interval bars.
    """

    line: Mapping[str, Any]
    mark: Mapping[str, Any]
    interval: Mapping[str, Any]


def encode_series(styles: Sequence[SeriesStyle]) -> SeriesChannels:
    """Return the encodings that give each series its style.

    Args:
        styles: The styles, in the order of the legend.

    Returns:
        The encodings for the marks of a chart.
    """
    names = list(map(attrgetter("name"), styles))
    listed = list(map(attrgetter("name"), filter(attrgetter("is_in_legend"), styles)))
    legend = alt.Legend(columns=_count_legend_columns(listed), values=listed)

    def scale(attribute: str) -> alt.Scale:
        return alt.Scale(domain=names, range=list(map(attrgetter(attribute), styles)))

    stroke = alt.Stroke("series:N", scale=scale("colour"), legend=legend)
    fill = alt.Fill("series:N", scale=scale("fill"), legend=legend)
    shape = alt.Shape("series:N", scale=scale("shape"), legend=legend)
    # Without a scale, because Vega-Lite would dash the outlines of the symbols in the legend, too.
    dash = alt.StrokeDash("dash:N", scale=None, legend=None)
    return SeriesChannels(
        line={"stroke": stroke, "strokeDash": dash},
        mark={"stroke": stroke, "fill": fill, "shape": shape},
        interval={"stroke": stroke},
    )


def make_data(rows: Sequence[Row], styles: Sequence[SeriesStyle]) -> alt.InlineData:
    """Return rows as the data of a chart with the encodings of `encode_series`.

    Args:
        rows: The rows. ``series`` is the series of a row, if it belongs to one.
        styles: The styles of the series.
    """
    dashes = {style.name: list(style.dash) for style in styles}
    values: list[Mapping[str, Any]] = []
    for row in rows:
        values.append({**row, "dash": dashes.get(row.get("series", ""))})
    return alt.InlineData(values=values)


def _count_legend_columns(names: Sequence[str]) -> int:
    if sum(map(len, names)) + SYMBOL_CHARACTERS * len(names) <= CHARACTERS_PER_LEGEND_ROW:
        return len(names)
    width = max(map(len, names)) + SYMBOL_CHARACTERS
    return max(1, min(len(names), CHARACTERS_PER_LEGEND_ROW // width))
