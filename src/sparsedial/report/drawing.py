"""What all figures share: rows without surprises, panels, one theme, and the files they end in.

Names reach a chart only as data, never inside an expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import altair as alt
import pandas as pd
import vl_convert

from sparsedial.report.files import write_atomically
from sparsedial.report.theme import THEME
from sparsedial.report.words import number, ordered, plain, sort_rows
from sparsedial.study.naming import AVERAGE

CURVE = ("model", "rule", "layers", "task")  # what a curve belongs to, beside its site


def to_svg(chart: alt.TopLevelMixin) -> str:
    """The chart as SVG text; nothing is fetched."""
    return vl_convert.vegalite_to_svg(chart.to_dict(), allowed_base_urls=[])


def save(chart: alt.TopLevelMixin, path: Path | str) -> str:
    """Write ``path.svg`` and ``path.png`` (scale 2) and return the SVG text.

    Raises:
        StoreError: a file cannot be written.
    """
    svg = to_svg(chart)
    target = Path(path)
    write_atomically(target.with_name(f"{target.name}.svg"), svg.encode())
    write_atomically(target.with_name(f"{target.name}.png"), vl_convert.svg_to_png(svg, scale=2))
    return svg


def records(frame: pd.DataFrame, names: Sequence[str], numbers: Sequence[str], **texts: str) -> list[dict[str, Any]]:
    """The rows as plain dictionaries: names made inert, numbers finite or None."""
    picked = [*names, *texts.values()]
    return [
        {name: plain(row[name]) for name in picked} | {name: number(row[name]) for name in numbers}
        for row in sort_rows(frame).to_dict("records")
    ]


def name_panels(*tables: list[dict[str, Any]], by: Sequence[str]) -> list[str]:
    """Give every row its ``panel``: what differs between the rows of the first table; return their order."""
    if not tables[0]:
        raise ValueError("nothing to draw: no row has finite values")
    differing = [name for name in by if len({row[name] for row in tables[0]}) > 1]
    for table in tables:
        for row in table:
            row["panel"] = " · ".join(title(name, row[name]) for name in differing)
    return ordered(row["panel"] for row in tables[0])


def title(column: str, name: str) -> str:
    """How what is in this column is called in a panel's or a figure's title."""
    if column == "layers":
        return f"layers {name}"
    return "task average" if (column, name) == ("task", AVERAGE) else name


def name_vectors(rows: list[dict[str, Any]]) -> None:
    """Give every row its ``line``: its site, and the vector where the site has several."""
    for row in rows:
        row["line"] = row["site"] if row["vector"] == row["site"] else f"{row['site']}: {row['vector']}"


def fits(rows: list[dict[str, Any]], name: str) -> int:
    """Roughly how many pixels the longest of these labels takes."""
    return min(7 * max(len(row[name]) for row in rows), 260)


def finish(
    layers: alt.LayerChart | alt.FacetChart,
    rows: list[dict[str, Any]],
    panels: list[str],
    heading: str,
    subtitle: str | list[str],
    height: int | alt.Step,
    *,
    labels: int = 0,
    widest: int = 3,
    anchor: Literal["start", "middle"] = "middle",
) -> alt.TopLevelMixin:
    """Data, panels, title and theme: one plot, or several side by side where their names leave room.

    Args:
        labels: the room, in pixels, that long labels of the y axis take of each panel.
        widest: how many panels may be side by side. anchor: where above a panel its name is.
    """
    data = alt.InlineData(values=rows)
    longest = max(map(len, panels))
    most = min(len(panels), widest, 5 if longest <= 14 else 3 if longest <= 30 else 2 if longest <= 48 else 1)
    columns = next((n for n in range(most, 1, -1) if len(panels) % n == 0), most)  # full rows, where it can be
    width = {1: 780, 2: 350, 3: 215, 4: 160, 5: 130}[columns] - labels
    models = {row["model"] for row in rows if "model" in row}
    text = alt.TitleParams(f"{heading} · {models.pop()}" if len(models) == 1 else heading, subtitle=subtitle)
    sized = layers.properties(width=width, height=height)
    if len(panels) == 1:
        return sized.properties(data=data, title=text).configure(**THEME)
    sized = sized.properties(data=data)
    facet = alt.Facet("panel:N", sort=panels, header=alt.Header(title=None, labelLimit=width, labelAnchor=anchor))
    drawn = sized.facet(facet=facet, columns=columns, spacing=34 if columns < 4 else 20)
    return drawn.properties(title=text).configure(**THEME)
