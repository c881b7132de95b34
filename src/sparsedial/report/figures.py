"""The figures: pure functions from the results' DataFrames to Altair charts, in one theme.

Every site has its own colour and shape, the same in every figure (`theme`). Names reach a chart
only as data, never inside an expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from sparsedial.critical import BEYOND
from sparsedial.ffn import SITES
from sparsedial.report.files import write_atomically
from sparsedial.report.theme import COLOURS, INK, SHAPES, SPARE, THEME, of_sites, site_scale
from sparsedial.report.words import AVERAGE, estimate, goal, number, ordered, plain, sort_rows

CURVE = ("model", "rule", "layers", "task")  # what a curve belongs to, beside its site
DENSE = {"sparsity": 0.0, "retention": 1.0, "low": None, "high": None, "kind": "dense"}  # where every curve begins


def retention(points: pd.DataFrame, critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """Retention over sparsity: a line per site through dense and the measured points, with intervals.

    One panel per combination of model, rule, layers and task. A ring marks each critical sparsity, a triangle
    one that is a lower bound.

    Args:
        points, critical: as in ``Results``; rows without a finite sparsity and retention are not drawn.
        retain: the share to keep, drawn as a horizontal line.

    Raises:
        ValueError: no row can be drawn.
    """
    rows = _records(points, (*CURVE, "site"), ("sparsity", "retention", "low", "high"))
    rows = [row for row in rows if row["sparsity"] is not None and row["retention"] is not None]
    marks = _records(critical, (*CURVE, "site"), ("value",), status="status")
    marks = [row for row in marks if row["value"] is not None]
    panels = _name_panels(rows, marks, by=CURVE)
    floor = max(0.0, 1 - 20 * max(1 - retain, 0.005))  # so that 1 - retain is a twentieth of the height
    lowest = min(min(row["retention"], 1.0 if row["low"] is None else row["low"]) for row in rows)
    bottom = max(floor, min(lowest, 1 - 3 * (1 - retain)) - 0.01)
    highest = max(max(row["retention"], row["high"] or 0.0) for row in rows)
    top = min(max(highest, 1.0), 2 - floor) + 0.01
    seen = [row["sparsity"] for row in rows if row["retention"] >= bottom] + [row["value"] for row in marks]
    right = max(min(1.08 * max(seen, default=1.0), max(row["sparsity"] for row in rows)), 0.01)
    dense = {(row["panel"], row["site"]): {**row, **DENSE} for row in rows}
    data: list[dict[str, Any]] = [{"panel": panel, "retention": retain, "kind": "goal"} for panel in panels]
    data += [{**row, "kind": "point"} for row in rows] + list(dense.values())
    data += [
        {"panel": row["panel"], "site": row["site"], "sparsity": row["value"], "retention": retain,
         "kind": "bound" if row["status"] == BEYOND else "critical"}
        for row in marks if row["panel"] in panels
    ]  # fmt: skip
    data.sort(key=lambda row: (panels.index(row["panel"]), row.get("sparsity", -1.0)))
    sites = ordered((row["site"] for row in rows), SITES)
    colour = alt.Color("site:N", scale=site_scale(sites, COLOURS, SPARE))
    x = alt.X(
        "sparsity:Q",
        title="sparsity (share dropped)",
        scale=alt.Scale(domain=[0, right], nice=False),
        axis=alt.Axis(format=".0%", tickCount=6 if len(panels) == 1 else 4),
    )
    y = alt.Y(
        "retention:Q",
        title="retention (sparse / dense score)",
        scale=alt.Scale(domain=[bottom, top], nice=False),
        axis=alt.Axis(format=".0%" if top - bottom > 0.05 else ".1%", tickCount=6),
    )
    base = alt.Chart().encode(x=x, y=y, color=colour)
    line = base.transform_filter("datum.kind === 'point' || datum.kind === 'dense'")
    point = base.transform_filter("datum.kind === 'point'")
    spread = point.transform_filter("isValid(datum.low) && isValid(datum.high)")
    goal_line = alt.Chart().mark_rule(strokeDash=[5, 4], color=INK, strokeWidth=1.2).encode(y=y)
    ring = base.mark_point(shape="circle", size=90, filled=False, fill="white", strokeWidth=2.2, opacity=1)
    bound = base.mark_point(shape="triangle-right", size=130, filled=False, fill="white", strokeWidth=2.2, opacity=1)
    layers = alt.layer(
        goal_line.transform_filter("datum.kind === 'goal'"),
        spread.mark_rule(clip=True, strokeWidth=5, opacity=0.22).encode(y="low:Q", y2="high:Q"),
        line.mark_line(clip=True, strokeWidth=2),
        point.mark_point(clip=True, filled=True, size=42, opacity=1).encode(
            shape=alt.Shape("site:N", scale=site_scale(sites, SHAPES, ("cross",)))
        ),
        ring.transform_filter("datum.kind === 'critical'"),
        bound.transform_filter("datum.kind === 'bound'"),
    )
    notes = ["rings mark the critical sparsities", "bars are 95% intervals"]
    if any(row["kind"] == "bound" for row in data):
        notes[0] += ", triangles those that are lower bounds"
    if lowest < bottom:
        notes.append(f"what lies below {100 * bottom:.0f}% is cut off")
    return _finish(layers, data, panels, "Retention over sparsity", "; ".join(notes), height=300)


def critical_sparsities(critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """The critical sparsity of every site as a dot with its 95% interval, a panel per model, rule and task.

    Args:
        critical: as in ``Results``; rows without a value are not drawn.

    Raises:
        ValueError: no row can be drawn.
    """
    rows = _records(critical, (*CURVE, "site"), ("value", "low", "high"), status="status")
    rows = [row for row in rows if row["value"] is not None]
    panels = _name_panels(rows, by=CURVE)
    for row in rows:
        row["text"] = estimate(row["value"], None, None, row["status"])
        row["end"] = max(row["value"], row["high"] or 0.0)
    sites = ordered((row["site"] for row in rows), SITES)
    longest = max(row["end"] for row in rows)
    across = "critical sparsity (share dropped)"
    x = alt.X(
        "value:Q",
        title=across,
        scale=alt.Scale(domain=[0, max(0.05, longest * (1.16 if len(panels) == 1 else 1.3))], nice=False),
        axis=alt.Axis(format=".0%", tickCount=6 if len(panels) == 1 else 4),
    )
    y = alt.Y("site:N", title=None, scale=alt.Scale(domain=sites), axis=alt.Axis(labelFontSize=13, ticks=False))
    base = alt.Chart().encode(y=y, color=alt.Color("site:N", scale=site_scale(sites, COLOURS, SPARE), legend=None))
    measured = base.transform_filter(f"datum.status !== '{BEYOND}'").mark_point(filled=True, size=80, opacity=1)
    bound = base.transform_filter(f"datum.status === '{BEYOND}'")
    layers = alt.layer(
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_errorbar(rule={"strokeWidth": 2}, ticks={"size": 14, "thickness": 2})
        .encode(x=alt.X("low:Q", title=across), x2="high:Q"),
        measured.encode(x=x, shape=alt.Shape("site:N", scale=site_scale(sites, SHAPES, ("cross",)), legend=None)),
        bound.mark_point(filled=True, size=130, opacity=1, shape="triangle-right").encode(x=x),
        base.mark_text(align="left", dx=9, fontSize=12.5).encode(x="end:Q", text="text:N", color=alt.value(INK)),
    )
    bars = "bars are 95% intervals" + ("; ≥ is a lower bound" if any(r["status"] == BEYOND for r in rows) else "")
    about = f"the highest sparsity that keeps {goal(retain)} of the dense score; {bars}"
    return _finish(layers, rows, panels, "Critical sparsity by site", about, height=34 * len(sites))


def layer_profile(layers: pd.DataFrame) -> alt.TopLevelMixin:
    """Sparsity over layers, at the measured p nearest the critical one: a line per site and vector.

    One panel per combination of model, rule, task and phase. ``all_inputs`` has two vectors, told apart
    by the dash.

    Raises:
        ValueError: no row can be drawn.
    """
    by = (*CURVE, "phase")
    rows = _records(layers, (*by, "site", "vector"), ("layer", "sparsity"))
    rows = [row for row in rows if row["layer"] is not None and row["sparsity"] is not None]
    panels = _name_panels(rows, by=by)
    for row in rows:
        same = row["vector"] == row["site"]
        row["line"] = row["site"] if same else f"{row['site']}: {row['vector']}"
    lines = {row["line"]: (row["site"], row["vector"]) for row in rows}
    sites = ordered((row["site"] for row in rows), SITES)
    names = sorted(lines, key=lambda name: (sites.index(lines[name][0]), ordered([lines[name][1]], SITES)))
    colours = dict(zip(sites, of_sites(sites, COLOURS, SPARE), strict=True))
    vectors = {site: ordered((lines[name][1] for name in names if lines[name][0] == site), SITES) for site in sites}
    dashes = [
        ([1, 0], [5, 3], [2, 2])[vectors[site].index(vector) % 3] for site, vector in map(lines.__getitem__, names)
    ]
    numbers = sorted({row["layer"] for row in rows})
    alone = 0.5 if len(numbers) == 1 else 0
    # One legend for both: colour and dash share a domain, so Vega-Lite merges them.
    colour = alt.Color(
        "line:N",
        scale=alt.Scale(domain=names, range=[colours[lines[name][0]] for name in names]),
        legend=alt.Legend(symbolType="stroke", symbolSize=400, symbolStrokeWidth=2.5),
    )
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=dashes))
    base = alt.Chart().encode(
        x=alt.X(
            "layer:Q",
            title="layer",
            scale=alt.Scale(domain=[numbers[0] - alone, numbers[-1] + alone], nice=False),
            axis=alt.Axis(format="d", **({"values": numbers} if len(numbers) == 1 else {"tickMinStep": 1})),
        ),
        y=alt.Y(
            "sparsity:Q",
            title="sparsity (share dropped)",
            scale=alt.Scale(zero=True),
            axis=alt.Axis(format=".0%", tickCount=6),
        ),
        color=colour,
    )
    drawn = alt.layer(
        base.mark_line(strokeWidth=2).encode(strokeDash=dash), base.mark_point(filled=True, size=22, opacity=1)
    )
    about = "each site at the measured p nearest its critical sparsity"
    return _finish(drawn, rows, panels, "Sparsity by layer", about, height=280)


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


def _records(frame: pd.DataFrame, names: Sequence[str], numbers: Sequence[str], **texts: str) -> list[dict[str, Any]]:
    """The rows as plain dictionaries: names made inert, numbers finite or None."""
    picked = [*names, *texts.values()]
    return [
        {name: plain(row[name]) for name in picked} | {name: number(row[name]) for name in numbers}
        for row in sort_rows(frame).to_dict("records")
    ]


def _name_panels(*tables: list[dict[str, Any]], by: Sequence[str]) -> list[str]:
    """Give every row its ``panel``: what differs between the rows of the first table; return their order."""
    if not tables[0]:
        raise ValueError("nothing to draw: no row has finite values")
    differing = [name for name in by if len({row[name] for row in tables[0]}) > 1]
    for table in tables:
        for row in table:
            row["panel"] = " · ".join(_title(name, row[name]) for name in differing)
    return ordered(row["panel"] for row in tables[0])


def _title(column: str, name: str) -> str:
    if column == "layers":
        return f"layers {name}"
    return "task average" if (column, name) == ("task", AVERAGE) else name


def _finish(
    layers: alt.LayerChart | alt.FacetChart,
    rows: list[dict[str, Any]],
    panels: list[str],
    title: str,
    subtitle: str,
    height: int,
) -> alt.TopLevelMixin:
    """Data, panels, title and theme: one plot, or up to three side by side where their names leave room."""
    data = alt.InlineData(values=rows)
    longest = max(map(len, panels))
    columns = min(len(panels), 3 if longest <= 30 else 2 if longest <= 48 else 1)
    width = {1: 780, 2: 350, 3: 215}[columns]
    models = {row["model"] for row in rows if "model" in row}
    text = alt.TitleParams(f"{title} · {models.pop()}" if len(models) == 1 else title, subtitle=subtitle)
    sized = layers.properties(width=width, height=height)
    if len(panels) == 1:
        return sized.properties(data=data, title=text).configure(**THEME)
    sized = sized.properties(data=data)
    facet = alt.Facet("panel:N", sort=panels, header=alt.Header(title=None, labelLimit=width))
    drawn = sized.facet(facet=facet, columns=columns, spacing=34)
    return drawn.properties(title=text).configure(**THEME)
