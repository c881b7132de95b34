"""Which rule buys how much: critical sparsity of each rule at each site, against top-p on the same examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import altair as alt
import pandas as pd

from sparsedial.curves.critical import critical_sparsity
from sparsedial.curves.difference import compare_prepared_curves, prepare_curve
from sparsedial.curves.matched_sparsity import retention_difference
from sparsedial.study.criterion import PERPLEXITY, SCORE
from tools.rule_study.figures import draw_differences
from tools.rule_study.study_curves import (
    SITES,
    StudyCurve,
    StudyTable,
    format_critical,
    format_points,
    list_models,
    markdown_table,
    required_share,
)

BASELINE = "top_p"
RULES = (
    "top_p",
    "top_p(q=2)",
    "top_k",
    "max_p",
    "threshold",
    "weighted_top_k",
    "weighted_top_p",
    "cett",
    "n_of_m",
    "n_of_m(m=16)",
)

COMPARED = {
    "critical sparsity by score": ("difference", "low", "high"),
    "retention at the critical sparsity of top-p": ("retention_difference", "retention_low", "retention_high"),
}
"""What is compared with top-p, with the columns of the difference and its interval."""


def make_table(curves: Sequence[StudyCurve]) -> StudyTable:
    """Compare each rule with top-p.

    Args:
        curves: The curves of a study of rules and sites.
    """
    rows = pd.DataFrame(_compare_all(curves))
    models = list_models(curves)
    parts = []
    for title, names in COMPARED.items():
        parts.append(f"All sites, {title}:\n\n{_summarize(rows, models, names)}")
    for model in models:
        for criterion in (SCORE, PERPLEXITY):
            part = rows[(rows["model"] == model) & (rows["criterion"] == criterion)]
            if not part.empty:
                parts.append(f"{model}, critical sparsity by {criterion}:\n\n{_format_model(part, _format_cell)}")
        part = rows[(rows["model"] == model) & (rows["criterion"] == SCORE)]
        parts.append(f"{model}, retention at the critical sparsity of top-p:\n\n{_format_model(part, _format_matched)}")
    return StudyTable("\n\n".join(parts), rows, _draw(rows, models))


def _compare_all(curves: Sequence[StudyCurve]) -> Iterator[dict[str, Any]]:
    baselines = {(curve.model, curve.site, curve.task): curve for curve in curves if curve.rule == BASELINE}
    for curve in curves:
        baseline = baselines.get((curve.model, curve.site, curve.task))
        for criterion in (SCORE, PERPLEXITY):
            if curve.find_curve(criterion) is not None:
                yield _compare(curve, baseline, criterion)


def _compare(curve: StudyCurve, baseline: StudyCurve | None, criterion: str) -> dict[str, Any]:
    retain = required_share(criterion)
    measured = curve.find_curve(criterion)
    assert measured is not None
    critical = critical_sparsity(measured, retain)
    row: dict[str, Any] = {
        "model": curve.model,
        "parameters": curve.parameters,
        "task": curve.task,
        "site": curve.site,
        "rule": curve.rule,
        "criterion": criterion,
        "sparsity": critical.estimate,
        "center": critical.center,
        "sparsity_low": critical.low,
        "sparsity_high": critical.high,
        "right_censored": critical.right_censored,
        "text": format_critical(critical),
    }
    other = None if baseline is None else baseline.find_curve(criterion)
    if other is None or curve.rule == BASELINE:
        return row
    difference = compare_prepared_curves(prepare_curve(measured, retain), prepare_curve(other, retain))
    row |= {"difference": difference.estimate, "low": difference.low, "high": difference.high}
    row["verdict"] = difference.verdict
    matched = retention_difference(measured, other, critical_sparsity(other, retain).center)
    if matched is not None:
        row |= {
            "matched_sparsity": matched.sparsity,
            "retention_difference": matched.estimate,
            "retention_low": matched.low,
            "retention_high": matched.high,
        }
    return row


def _summarize(rows: pd.DataFrame, models: Sequence[str], names: Sequence[str]) -> str:
    """Return a table with a row per rule and a column per model: the range over the sites, and what is separated."""
    shown = rows[(rows["criterion"] == SCORE) & (rows["rule"] != BASELINE)]
    known = shown.dropna(subset=list(names))
    lines = []
    for rule in [rule for rule in RULES if rule in set(known["rule"])]:
        cells = [f"`{rule}`"]
        for model in models:
            cells.append(_summarize_sites(known[(known["rule"] == rule) & (known["model"] == model)], names))
        lines.append(cells)
    return markdown_table(["rule", *models], lines)


def _summarize_sites(rows: pd.DataFrame, names: Sequence[str]) -> str:
    if rows.empty:
        return "–"
    differences, low, high = (100 * rows[name].astype(float) for name in names)
    counts = f"{(high < 0).sum()} less, {(low > 0).sum()} more of {len(rows)}"
    return f"{differences.min():+.1f} to {differences.max():+.1f}; {counts}"


def _format_model(rows: pd.DataFrame, format_cell: Callable[[pd.Series], str]) -> str:
    """Return the table of one model and criterion: a row per rule, a column per site."""
    sites = [site for site in SITES if site in set(rows["site"])]
    lines = []
    for rule in RULES:
        cells = [f"`{rule}`"]
        for site in sites:
            found = rows[(rows["site"] == site) & (rows["rule"] == rule)]
            cells.append(format_cell(found.iloc[0]) if len(found) else "–")
        lines.append(cells)
    return markdown_table(["rule", *(f"`{site}`" for site in sites)], lines)


def _format_cell(row: pd.Series) -> str:
    if row["rule"] == BASELINE:
        return str(row["text"])
    return _format_numbers(row, ("difference", "low", "high"))


def _format_matched(row: pd.Series) -> str:
    if row["rule"] == BASELINE:
        return f"at {100 * row['center']:.1f}%"
    return _format_numbers(row, ("retention_difference", "retention_low", "retention_high")) or "–"


def _format_numbers(row: pd.Series, names: Sequence[str]) -> str:
    numbers = [None if pd.isna(row.get(name)) else float(row[name]) for name in names]
    return format_points(*numbers)


def _draw(rows: pd.DataFrame, models: Sequence[str]) -> alt.TopLevelMixin:
    """Draw the differences. A rule without any estimate is left out: its intervals are wider than all others."""
    shown = rows[(rows["criterion"] == SCORE) & rows["low"].notna()].copy()
    shown = shown[shown["rule"].isin(shown.loc[shown["difference"].notna(), "rule"])]
    shown["panel"] = shown["site"]
    shown["row"] = shown["rule"]
    shown["series"] = shown["model"]
    return draw_differences(
        shown,
        panels=[site for site in SITES if site in set(shown["site"])],
        rows=[rule for rule in RULES if rule in set(shown["rule"])],
        series=models,
        title="critical sparsity minus that of top-p",
    )
