"""Critical sparsity against the size of the model, by the score and by the perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import altair as alt
import pandas as pd

from sparsedial.curves.critical import CriticalSparsity
from sparsedial.curves.size_trend import SizeTrend, fit_size_trend
from sparsedial.report.publication.panels import THEME, percent_axis
from sparsedial.report.publication.series import INTERVAL_WIDTH, LINE_WIDTH, POINT_SIZE, encode_series, series_styles
from sparsedial.study.criterion import PERPLEXITY, SCORE
from tools.rule_study.study_curves import (
    SITES,
    StudyCurve,
    StudyTable,
    format_critical,
    format_points,
    markdown_table,
    required_share,
)

RULE = "top_p"
CRITERIA = (SCORE, PERPLEXITY)
LABELS = {SCORE: "99% of the score", PERPLEXITY: "perplexity +1%"}
PANEL_WIDTH = 145
PANEL_HEIGHT = 120


def make_table(curves: Sequence[StudyCurve]) -> StudyTable:
    """Compare the criteria, and their trends over the sizes of the models.

    Args:
        curves: The curves of one rule for models of several sizes.
    """
    usable = [curve for curve in curves if curve.rule == RULE and curve.by_perplexity is not None]
    usable.sort(key=_panel_key)
    rows = [_describe(curve) for curve in usable]
    lines = [[row["model"], f"`{row['site']}`", row["task"], *row["cells"]] for row in rows]
    header = ["model", "site", "task", *LABELS.values(), "difference"]
    table = pd.DataFrame([{name: value for name, value in row.items() if name != "cells"} for row in rows])
    trends = _list_trends(usable)
    markdown = markdown_table(header, lines)
    if trends:
        titles = [
            "site",
            "task",
            "models",
            *(f"trend, {label}" for label in LABELS.values()),
            "difference of trends",
        ]
        markdown += "\n\n" + markdown_table(titles, trends)
    return StudyTable(markdown, table, _draw(table))


def _panel_key(curve: StudyCurve) -> tuple[str, int, int]:
    return curve.task, SITES.index(curve.site) if curve.site in SITES else len(SITES), curve.parameters


def _describe(curve: StudyCurve) -> dict[str, Any]:
    row: dict[str, Any] = {"model": curve.model, "parameters": curve.parameters, "site": curve.site, "task": curve.task}
    criticals: list[CriticalSparsity] = []
    for criterion in CRITERIA:
        critical = curve.find_critical(criterion)
        assert critical is not None
        criticals.append(critical)
        row |= {criterion: critical.estimate, f"{criterion}_low": critical.low, f"{criterion}_high": critical.high}
    by_score, by_perplexity = criticals
    difference = _subtract(_interval(by_perplexity), _interval(by_score))
    row |= dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True))
    row["cells"] = [format_critical(by_score), format_critical(by_perplexity), format_points(*difference)]
    return row


Interval = tuple[float, float | None, float | None]


def _interval(critical: CriticalSparsity) -> Interval:
    return critical.center, critical.low, 1.0 if critical.right_censored else critical.high


def _subtract(first: Interval, second: Interval) -> Interval:
    """Return the difference of two estimates, with the interval of independent ones (Zou and Donner 2008).

    Both are measured on the same examples, whose errors usually have the same sign, so it is wider than necessary.
    """
    value = first[0] - second[0]
    if first[1] is None or first[2] is None or second[1] is None or second[2] is None:
        return value, None, None
    down = math.hypot(first[0] - first[1], second[2] - second[0])
    up = math.hypot(first[2] - first[0], second[0] - second[1])
    return value, value - down, value + up


def _list_trends(curves: Sequence[StudyCurve]) -> list[list[str]]:
    """Return a row for each task and site with models of several sizes."""
    lines = []
    for (task, site), group in groupby(curves, key=lambda curve: (curve.task, curve.site)):
        members = list(group)
        sizes = [member.parameters for member in members]
        if len(set(sizes)) < 2:
            continue
        trends = []
        for criterion in CRITERIA:
            points = [member.find_curve(criterion) for member in members]
            known = [curve for curve in points if curve is not None]
            trends.append(_as_interval(fit_size_trend(sizes, known, required_share(criterion))))
        difference = _subtract(trends[1], trends[0])
        cells = [format_points(*value) for value in (*trends, difference)]
        lines.append([f"`{site}`", task, str(len(members)), *cells])
    return lines


def _as_interval(trend: SizeTrend) -> Interval:
    return trend.slope, trend.low, trend.high


def _draw(table: pd.DataFrame) -> alt.TopLevelMixin:
    values = []
    for row in table.to_dict("records"):
        for criterion in CRITERIA:
            numbers = {name: row[f"{criterion}{suffix}"] for name, suffix in (("low", "_low"), ("high", "_high"))}
            estimate = None if pd.isna(row[criterion]) else row[criterion]
            panel = f"{row['site']}, {row['task']}"
            values.append(
                {"panel": panel, "parameters": row["parameters"], "series": LABELS[criterion], "y": estimate, **numbers}
            )
    channels = encode_series(list(series_styles(list(LABELS.values())).values()))
    smallest = table["parameters"].min() / 1.6
    scale = alt.Scale(type="log", domain=[smallest, table["parameters"].max() * 1.6], nice=False)
    x = alt.X("parameters:Q", title="parameters", scale=scale, axis=alt.Axis(format="~s", tickCount=4))
    base = alt.Chart().encode(x=x)
    known = base.transform_filter("isValid(datum.y)")
    y = alt.Y("y:Q", title="critical sparsity", axis=percent_axis())
    layers = alt.layer(
        base.mark_rule(strokeWidth=INTERVAL_WIDTH).encode(
            y=alt.Y("low:Q", title="critical sparsity", axis=percent_axis()), y2="high:Q", **channels.interval
        ),
        known.mark_line(strokeWidth=LINE_WIDTH).encode(y=y, stroke=channels.line["stroke"]),
        known.mark_point(filled=True, size=POINT_SIZE, opacity=1).encode(y=y, **channels.mark),
    )
    plot = layers.properties(width=PANEL_WIDTH, height=PANEL_HEIGHT, data=alt.Data(values=values))
    panels = list(dict.fromkeys(value["panel"] for value in values))
    facet = alt.Facet("panel:N", sort=panels, header=alt.Header(title=None))
    return plot.facet(facet=facet, columns=3, spacing=16).configure(**THEME)
