"""The figures of a model's curves: pure functions from the results' DataFrames to Altair charts.

Every site has its own colour and shape, the same in every figure (`theme`).
"""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from sparsedial.critical import BEYOND
from sparsedial.ffn import SITES
from sparsedial.report.drawing import CURVE, finish, name_panels, records
from sparsedial.report.theme import COLOURS, INK, SHAPES, SPARE, site_scale
from sparsedial.report.words import estimate, goal, ordered
from sparsedial.study.joined import EARLIER, GRID, SEARCH

POINTS = {SEARCH: 48, GRID: 14, EARLIER: 14}  # their size
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
    rows = records(points, (*CURVE, "site"), ("sparsity", "retention", "low", "high"), chosen_by="chosen_by")
    rows = [row for row in rows if row["sparsity"] is not None and row["retention"] is not None]
    marks = records(critical, (*CURVE, "site"), ("value",), status="status")
    marks = [row for row in marks if row["value"] is not None]
    panels = name_panels(rows, marks, by=CURVE)
    floor = max(0.0, 1 - 20 * max(1 - retain, 0.005))  # so that 1 - retain is a twentieth of the height
    lowest = min(min(row["retention"], 1.0 if row["low"] is None else row["low"]) for row in rows)
    bottom = max(floor, min(lowest, 1 - 3 * (1 - retain)) - 0.01)
    highest = max(max(row["retention"], row["high"] or 0.0) for row in rows)
    top = min(max(highest, 1.0), 2 - floor) + 0.01
    seen = [row["sparsity"] for row in rows if row["retention"] >= bottom] + [row["value"] for row in marks]
    right = max(min(1.08 * max(seen, default=1.0), 1.02 * max(row["sparsity"] for row in rows)), 0.01)
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
    chosen_scale = alt.Scale(domain=list(POINTS), range=list(POINTS.values()))
    ring = base.mark_point(shape="circle", size=90, filled=False, fill="white", strokeWidth=2.2, opacity=1)
    bound = base.mark_point(shape="triangle-right", size=130, filled=False, fill="white", strokeWidth=2.2, opacity=1)
    layers = alt.layer(
        goal_line.transform_filter("datum.kind === 'goal'"),
        spread.mark_rule(clip=True, strokeWidth=5, opacity=0.22).encode(y="low:Q", y2="high:Q"),
        line.mark_line(clip=True, strokeWidth=2),
        point.mark_point(clip=True, filled=True, opacity=1).encode(
            shape=alt.Shape("site:N", scale=site_scale(sites, SHAPES, ("cross",))),
            size=alt.Size("chosen_by:N", scale=chosen_scale, legend=None),
        ),
        ring.transform_filter("datum.kind === 'critical'"),
        bound.transform_filter("datum.kind === 'bound'"),
    )
    notes = ["rings mark the critical sparsities", "bars are 95% intervals"]
    if any(row["kind"] == "bound" for row in data):
        notes[0] += ", triangles those that are lower bounds"
    chosen = {row["chosen_by"] for row in rows}
    if SEARCH in chosen:
        large = "large points were chosen by the search, small ones lie on a grid"
        notes.append(large if len(chosen) > 1 else "the points were chosen by the search")
    if lowest < bottom:
        notes.append(f"what lies below {100 * bottom:.0f}% is cut off")
    return finish(layers, data, panels, "Retention over sparsity", "; ".join(notes), height=300)


def critical_sparsities(critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """The critical sparsity of every site as a dot with its 95% interval, a panel per model, rule and task.

    Args:
        critical: as in ``Results``; rows without a value are not drawn.

    Raises:
        ValueError: no row can be drawn.
    """
    rows = records(critical, (*CURVE, "site"), ("value", "low", "high"), status="status")
    rows = [row for row in rows if row["value"] is not None]
    panels = name_panels(rows, by=CURVE)
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
    return finish(layers, rows, panels, "Critical sparsity by site", about, height=34 * len(sites))
