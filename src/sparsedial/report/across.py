"""The figures that compare models and tasks: critical sparsity by size, by model, and as a heat map."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from sparsedial.critical import BEYOND
from sparsedial.ffn import SITES
from sparsedial.report.drawing import finish, fits, name_panels, records, title
from sparsedial.report.theme import (
    COLOURS,
    FAMILIES,
    FAMILY_SHAPES,
    INK,
    SHADES,
    SHAPES,
    SPARE,
    site_scale,
)
from sparsedial.report.words import estimate, goal, interval, ordered
from sparsedial.study.naming import is_average

CRITICAL = "critical sparsity (share dropped)"
NAMES = ("model", "family", "rule", "layers", "task", "site")


def by_size(critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """Critical sparsity over the number of parameters (log axis): a line per family, a panel per site.

    A mixture of experts is also marked, open, at the parameters that are active for a token.

    Raises:
        ValueError: no row can be drawn.
    """
    rows = _rows(critical, "parameters", "active_parameters")
    rows = [row for row in rows if row["parameters"]]
    panels = name_panels(rows, by=("rule", "layers", "task", "site"))
    families = ordered(row["family"] for row in rows)
    sizes = [size for row in rows for size in (row["parameters"], row["active_parameters"]) if size]
    x = alt.X(
        "parameters:Q",
        title="parameters",
        scale=alt.Scale(type="log", domain=[min(sizes) / 1.3, max(sizes) * 1.3], nice=False),
        axis=alt.Axis(
            values=_ticks(min(sizes) / 1.3, max(sizes) * 1.3),
            labelExpr="upper(replace(format(datum.value, '~s'), 'G', 'B'))",
            labelOverlap="greedy",
        ),
    )
    y = alt.Y("value:Q", title=CRITICAL, scale=alt.Scale(zero=True), axis=alt.Axis(format=".0%", tickCount=6))
    colour = alt.Color(
        "family:N",
        scale=alt.Scale(domain=families, range=_cycle(FAMILIES, len(families))),
        legend=None if len(families) == 1 else alt.Legend(columns=6, symbolType="circle"),
    )
    shape = alt.Shape(
        "family:N", scale=alt.Scale(domain=families, range=_cycle(FAMILY_SHAPES, len(families))), legend=None
    )
    base = alt.Chart().encode(x=x, color=colour)
    point = base.encode(y=y)
    measured = point.transform_filter(f"datum.status !== '{BEYOND}'")
    bound = point.transform_filter(f"datum.status === '{BEYOND}'")
    active = point.transform_filter("isValid(datum.active_parameters) && datum.active_parameters < datum.parameters")
    layers = alt.layer(
        point.mark_line(strokeWidth=1.6, opacity=0.75),
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_errorbar(rule={"strokeWidth": 1.6}, ticks={"size": 9, "thickness": 1.6})
        .encode(y=alt.Y("low:Q", title=CRITICAL), y2="high:Q"),
        active.mark_rule(strokeDash=[2, 3], strokeWidth=1.4).encode(x2="active_parameters:Q"),
        active.mark_point(filled=False, fill="white", size=70, strokeWidth=2, opacity=1).encode(
            x="active_parameters:Q", shape=shape
        ),
        measured.mark_point(filled=True, size=70, opacity=1).encode(shape=shape),
        bound.mark_point(filled=False, fill="white", shape="triangle-up", size=110, strokeWidth=2, opacity=1),
    )
    notes = [f"the highest sparsity that keeps {goal(retain)} of the dense score; bars are 95% intervals"]
    if any(row["status"] == BEYOND for row in rows):
        notes.append("open triangles are lower bounds")
    if any((row["active_parameters"] or row["parameters"]) < row["parameters"] for row in rows):
        notes.append("a mixture of experts is open at its active, filled at all its parameters")
    alone = [f" · {families[0]}"] if len(families) == 1 else []
    heading = "".join(["Critical sparsity by model size", *_only_task(rows), *alone])
    return finish(layers, rows, panels, heading, notes, height=250, widest=5)


def by_model(critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """The critical sparsity of every model and site as a dot with its 95% interval, a panel per task.

    Raises:
        ValueError: no row can be drawn.
    """
    rows = _rows(critical)
    panels = name_panels(rows, by=("rule", "layers", "task"))
    for row in rows:
        row["text"] = estimate(row["value"], None, None, row["status"])
        row["end"] = max(row["value"], row["high"] or 0.0)
    sites = ordered((row["site"] for row in rows), SITES)
    models = _models(rows)
    x = alt.X(
        "value:Q",
        title=CRITICAL,
        scale=alt.Scale(domain=[0, max(0.05, 1.16 * max(row["end"] for row in rows))], nice=False),
        axis=alt.Axis(format=".0%", tickCount=6),
    )
    base = alt.Chart().encode(
        y=alt.Y(
            "model:N",
            title=None,
            scale=alt.Scale(domain=models, paddingInner=0.25, paddingOuter=0.1),
            axis=alt.Axis(labelFontSize=13, ticks=False, labelLimit=260, grid=False),
        ),
        yOffset=alt.YOffset("site:N", scale=alt.Scale(domain=sites)),
        color=alt.Color("site:N", scale=site_scale(sites, COLOURS, SPARE)),
    )
    shape = alt.Shape("site:N", scale=site_scale(sites, SHAPES, ("cross",)))
    measured = base.transform_filter(f"datum.status !== '{BEYOND}'").mark_point(filled=True, size=55, opacity=1)
    bound = base.transform_filter(f"datum.status === '{BEYOND}'")
    layers = alt.layer(
        base.transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", title=CRITICAL), x2="high:Q"),
        measured.encode(x=x, shape=shape),
        bound.mark_point(filled=True, size=90, opacity=1, shape="triangle-right").encode(x=x),
        base.mark_text(align="left", dx=7, fontSize=11).encode(x="end:Q", text="text:N", color=alt.value(INK)),
    )
    bars = "bars are 95% intervals" + ("; ≥ is a lower bound" if any(r["status"] == BEYOND for r in rows) else "")
    about = f"the highest sparsity that keeps {goal(retain)} of the dense score; {bars}"
    height = len(models) * (15 * len(sites) + 8)
    return finish(
        layers,
        rows,
        panels,
        "".join(["Critical sparsity by model and site", *_only_task(rows)]),
        about,
        height,
        labels=fits(rows, "model"),
        widest=2,
    )


def by_task(critical: pd.DataFrame, retain: float) -> alt.TopLevelMixin:
    """A heat map of critical sparsities with their intervals: models x tasks for each site, or sites x tasks.

    Raises:
        ValueError: no row can be drawn.
    """
    rows = _rows(critical, *(["open"] if "open" in critical else []))
    models = _models(rows)
    sites = ordered((row["site"] for row in rows), SITES)
    tasks = sorted(ordered(row["task"] for row in rows), key=is_average)
    across = "site" if len(models) == 1 else "model"
    panels = name_panels(rows, by=("rule", "layers", *(() if across == "site" else ("site",))))
    highest = max(row["value"] for row in rows)
    for row in rows:
        row["text"] = estimate(row["value"], None, None, row["status"])
        row["spread"] = interval(row["low"], row["high"], row.get("open") == 1.0)
        row["dark"] = row["value"] > 0.65 * highest
    room = (780 - fits(rows, across)) / len(tasks)
    base = alt.Chart().encode(
        x=alt.X(
            "task:N",
            title=None,
            scale=alt.Scale(domain=tasks),
            axis=alt.Axis(
                orient="top",
                labelAngle=-35 if fits(rows, "task") > room else 0,
                ticks=False,
                domain=False,
                labelLimit=220,
            ),
        ),
        y=alt.Y(
            f"{across}:N",
            title=None,
            scale=alt.Scale(domain=sites if across == "site" else models),
            axis=alt.Axis(ticks=False, domain=False, labelFontSize=13, labelLimit=260),
        ),
    )
    ink = alt.condition("datum.dark", alt.value("white"), alt.value(INK))
    layers = alt.layer(
        base.mark_rect(stroke="white", strokeWidth=2).encode(
            color=alt.Color("value:Q", scale=alt.Scale(range=list(SHADES), domain=[0, highest]), legend=None)
        ),
        base.mark_text(fontSize=12.5, dy=-6).encode(text="text:N", color=ink),
        base.mark_text(fontSize=10, dy=9).encode(text="spread:N", color=ink),
    )
    about = f"the highest sparsity that keeps {goal(retain)} of the dense score, with its 95% interval"
    return finish(
        layers,
        rows,
        panels,
        "Critical sparsity by task",
        about,
        alt.Step(44),
        labels=fits(rows, across),
        widest=1,
        anchor="start",
    )


def _rows(critical: pd.DataFrame, *more: str) -> list[dict[str, Any]]:
    rows = records(critical, NAMES, ("value", "low", "high", *more), status="status")
    rows = [row for row in rows if row["value"] is not None]
    sites = ordered((row["site"] for row in rows), SITES)
    for place, row in enumerate(rows):
        row["place"] = place
    return sorted(rows, key=lambda row: sites.index(row["site"]))


def _models(rows: list[dict[str, Any]]) -> list[str]:
    """In the report's order, which is by family and size, whatever sites each has."""
    return ordered(row["model"] for row in sorted(rows, key=lambda row: row["place"]))


def _only_task(rows: list[dict[str, Any]]) -> list[str]:
    tasks = ordered(row["task"] for row in rows)
    return [f" · {title('task', tasks[0])}"] if len(tasks) == 1 else []


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers of parameters within the axis, at most about six."""
    decades = [10.0**k for k in range(3, 14)]
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [step * decade for decade in decades for step in steps if low <= step * decade <= high]
        if len(ticks) >= 3:
            return ticks
    return ticks or [(low * high) ** 0.5]


def _cycle(values: tuple[str, ...], count: int) -> list[str]:
    return [values[index % len(values)] for index in range(count)]
