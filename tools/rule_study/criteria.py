"""Critical sparsity against the size of the model, by the score and by the perplexity."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import pandas as pd

from sparsedial.curves.critical import CriticalSparsity, critical_sparsity
from sparsedial.curves.difference import critical_difference
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
    pairs = _list_pairs(usable)
    if pairs:
        titles = ["site", "task", "models", *LABELS.values(), "difference between the criteria"]
        markdown += "\n\n" + markdown_table(titles, pairs)
    return StudyTable(markdown, table, _draw(_select_sizes(table)))


def _panel_key(curve: StudyCurve) -> tuple[str, int, int]:
    return _name_task(curve.task), SITES.index(curve.site) if curve.site in SITES else len(SITES), curve.parameters


def _name_task(task: str) -> str:
    """Return the name of a task without its options."""
    return task.partition(" (")[0]


def _describe(curve: StudyCurve) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": curve.model,
        "family": curve.family,
        "parameters": curve.parameters,
        "site": curve.site,
        "task": curve.task,
    }
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


def _group(curves: Sequence[StudyCurve], *names: str) -> dict[tuple[str, ...], list[StudyCurve]]:
    """Return the curves by the values of some of their attributes, in order."""
    groups: dict[tuple[str, ...], list[StudyCurve]] = defaultdict(list)
    for curve in curves:
        groups[tuple(getattr(curve, name) for name in names)].append(curve)
    return groups


def _list_trends(curves: Sequence[StudyCurve]) -> list[list[str]]:
    """Return a row for each task and site with models of several sizes in one family."""
    lines = []
    for (task, site, _), members in _group(curves, "task", "site", "family").items():
        sizes = [member.parameters for member in members]
        if len(set(sizes)) < 2:
            continue
        trends = []
        for criterion in CRITERIA:
            points = [member.find_curve(criterion) for member in members]
            known = [curve for curve in points if curve is not None]
            trends.append(_as_interval(fit_size_trend(sizes, known, required_share(criterion))))
        lines.append([f"`{site}`", task, str(len(members)), *_format_criteria(trends)])
    return lines


def _list_pairs(curves: Sequence[StudyCurve]) -> list[list[str]]:
    """Return a row for each task and site: each model minus the next smaller one, if it is of another family.

    Each model has texts of its own, so the models are independent.
    """
    lines = []
    for (task, site), members in _group(curves, "task", "site").items():
        for smaller, larger in pairwise(members):
            if smaller.family == larger.family:
                continue
            differences = []
            for criterion in CRITERIA:
                curve, other = larger.find_curve(criterion), smaller.find_curve(criterion)
                assert curve is not None and other is not None
                difference = critical_difference(curve, other, required_share(criterion), same_examples=False)
                centers = [critical_sparsity(each, required_share(criterion)).center for each in (curve, other)]
                differences.append((centers[0] - centers[1], difference.low, difference.high))
            lines.append([f"`{site}`", task, f"{larger.model} − {smaller.model}", *_format_criteria(differences)])
    return lines


def _format_criteria(values: Sequence[Interval]) -> list[str]:
    """Return the cells of a number by both criteria, and of its difference between them."""
    return [format_points(*value) for value in (*values, _subtract(values[1], values[0]))]


def _as_interval(trend: SizeTrend) -> Interval:
    return trend.slope, trend.low, trend.high


def _select_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of sites at which a family has several sizes. If there is none, return all rows."""
    sizes = table.groupby(["site", "family"])["parameters"].transform("nunique")
    shown = table[table["site"].isin(table.loc[sizes > 1, "site"])]
    return table if shown.empty else shown


def _draw(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Draw the critical sparsities over the sizes. A line connects the models of one family."""
    values = []
    for row in table.to_dict("records"):
        for criterion in CRITERIA:
            numbers = {name: row[f"{criterion}{suffix}"] for name, suffix in (("low", "_low"), ("high", "_high"))}
            estimate = None if pd.isna(row[criterion]) else row[criterion]
            panel = f"{row['site']}, {_name_task(row['task'])}"
            place = {"panel": panel, "parameters": row["parameters"], "family": row["family"]}
            values.append({**place, "series": LABELS[criterion], "y": estimate, **numbers})
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
        known.mark_line(strokeWidth=LINE_WIDTH).encode(y=y, stroke=channels.line["stroke"], detail="family:N"),
        known.mark_point(filled=True, size=POINT_SIZE, opacity=1).encode(y=y, **channels.mark),
    )
    plot = layers.properties(width=PANEL_WIDTH, height=PANEL_HEIGHT, data=alt.Data(values=values))
    panels = list(dict.fromkeys(value["panel"] for value in values))
    facet = alt.Facet("panel:N", sort=panels, header=alt.Header(title=None))
    return plot.facet(facet=facet, columns=3, spacing=16).configure(**THEME)
