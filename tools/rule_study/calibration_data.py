"""Calibration on the task that is tested, on another task and on samples, against the data-free top-p.

All retentions are compared at one sparsity for each tested task: the critical sparsity of top-p on this task.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from sparsedial.curves.critical import critical_sparsity
from sparsedial.curves.curve import Curve, curve_from_scores
from sparsedial.curves.matched_sparsity import retention_difference, scores_at_sparsity
from sparsedial.rules import split_family
from tools.rule_study.figures import draw_differences
from tools.rule_study.study_curves import SITES, StudyCurve, StudyTable, format_points, list_models, markdown_table

BASELINE = "top_p"
CALIBRATED = ("threshold", "cett")
SUFFIX = "_calibration"
"""Ending of the name of a task with the calibration examples of another task."""
SAMPLES = "samples"
OTHER = "another task"
ALL_TASKS = "all tasks"
COMPARISONS = (
    "another task − tested task",
    "samples − tested task",
    "top-p − tested task",
    "top-p − another task",
    "WINA − tested task",
)
Z = float(norm.ppf(0.975))


def make_table(curves: Sequence[StudyCurve]) -> StudyTable:
    """Compare the retentions at the critical sparsity of top-p.

    Args:
        curves: The curves of a study with thresholds from several tasks.
    """
    rows = pd.DataFrame(list(_compare_all(curves)))
    rows = pd.concat([rows, pd.DataFrame(list(_average_tasks(rows)))], ignore_index=True)
    models = list_models(curves)
    return StudyTable(_format(rows, models), rows, _draw(rows, models))


def _calibration_task(rule: str) -> str:
    """Return the task whose examples calibrate a rule, or "samples"."""
    _, options = split_family(rule)
    return str(options.get("data", SAMPLES)).removesuffix(SUFFIX)


def _by_calibration_task(by_rule: Mapping[str, Curve], name: str) -> dict[str, Curve]:
    """Return the curves of a rule by the task that calibrated it."""
    curves = {}
    for rule, curve in by_rule.items():
        if split_family(rule)[0] == name:
            curves[_calibration_task(rule)] = curve
    return curves


def _compare_all(curves: Sequence[StudyCurve]) -> Iterator[dict[str, Any]]:
    """Yield one row per model, site, calibrated rule, tested task and comparison."""
    by_condition: dict[tuple[str, str, str], dict[str, Curve]] = defaultdict(dict)
    for curve in curves:
        by_condition[curve.model, curve.site, curve.task][curve.rule] = curve.by_score
    for (model, site, task), by_rule in by_condition.items():
        if BASELINE not in by_rule:
            continue
        sparsity = critical_sparsity(by_rule[BASELINE]).center
        for name in CALIBRATED:
            by_data = _by_calibration_task(by_rule, name)
            if task not in by_data or scores_at_sparsity(by_data[task], sparsity) is None:
                continue
            for comparison, first, second in _pairs(by_data, by_rule, task, sparsity):
                difference = retention_difference(first, second, sparsity)
                if difference is not None:
                    yield {
                        "model": model,
                        "site": site,
                        "rule": name,
                        "task": task,
                        "sparsity": sparsity,
                        "comparison": comparison,
                        "difference": difference.estimate,
                        "low": difference.low,
                        "high": difference.high,
                    }


def _pairs(
    by_data: Mapping[str, Curve], by_rule: Mapping[str, Curve], task: str, sparsity: float
) -> Iterator[tuple[str, Curve, Curve]]:
    """Yield the name of each comparison and the curves to compare. Other tasks are averaged for each example."""
    own = by_data[task]
    others = [curve for data, curve in by_data.items() if data not in (task, SAMPLES)]
    other = _average_at(others, sparsity)
    if other is not None:
        yield COMPARISONS[0], other, own
    if SAMPLES in by_data:
        yield COMPARISONS[1], by_data[SAMPLES], own
    yield COMPARISONS[2], by_rule[BASELINE], own
    if other is not None:
        yield COMPARISONS[3], by_rule[BASELINE], other
    if "weighted_top_k" in by_rule:
        yield COMPARISONS[4], by_rule["weighted_top_k"], own


def _average_at(curves: Sequence[Curve], sparsity: float) -> Curve | None:
    """Return a curve with one point, which has the mean of the scores of several curves at a sparsity."""
    scores = []
    for curve in curves:
        at_sparsity = scores_at_sparsity(curve, sparsity)
        if at_sparsity is not None:
            scores.append(at_sparsity)
    if not scores:
        return None
    common = min(map(len, scores))
    matrix = np.stack([curves[0].examples[0][:common, 0], np.mean([row[:common] for row in scores], 0)], 1)
    return curve_from_scores(np.array([sparsity]), np.array([math.nan]), matrix, higher_is_better=True)


def _average_tasks(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the mean of each comparison over the tested tasks. Their examples are independent."""
    for key, group in rows.groupby(["model", "site", "rule", "comparison"], sort=False):
        model, site, rule, comparison = key
        mean = float(group["difference"].mean())
        errors = (group["high"] - group["low"]) / (2 * Z)
        margin = Z * float(np.sqrt((errors**2).sum())) / len(group)
        yield {
            "model": model,
            "site": site,
            "rule": rule,
            "task": ALL_TASKS,
            "sparsity": float(group["sparsity"].mean()),
            "comparison": comparison,
            "difference": mean,
            "low": mean - margin,
            "high": mean + margin,
        }


def _format(rows: pd.DataFrame, models: Sequence[str]) -> str:
    lines = []
    shown = rows[rows["task"] == ALL_TASKS]
    for model in models:
        for (site, rule), group in shown[shown["model"] == model].groupby(["site", "rule"], sort=False):
            cells = [model, f"`{site}`", f"`{rule}`", f"{100 * group['sparsity'].iloc[0]:.0f}%"]
            for comparison in COMPARISONS:
                found = group[group["comparison"] == comparison]
                numbers = [float(found[name].iloc[0]) for name in ("difference", "low", "high")] if len(found) else []
                cells.append(format_points(*numbers) if numbers else "")
            lines.append(cells)
    return markdown_table(["model", "site", "rule", "sparsity", *COMPARISONS], lines)


def _panel_key(panel: str, models: Sequence[str]) -> tuple[int, str, int]:
    """Return the sort key of a panel: a row of panels for each site and rule, a column for each model."""
    model, site, rule = panel.split(", ")
    return -SITES.index(site), rule, models.index(model)


def _draw(rows: pd.DataFrame, models: Sequence[str]) -> Any:
    shown = rows[rows["comparison"].isin(COMPARISONS[:3])].copy()
    shown["panel"] = shown["model"] + ", " + shown["site"] + ", " + shown["rule"]
    shown["row"] = shown["task"]
    shown["series"] = shown["comparison"]
    tasks = [task for task in dict.fromkeys(shown["task"]) if task != ALL_TASKS]
    panels = sorted(set(shown["panel"]), key=lambda panel: _panel_key(panel, models))
    return draw_differences(shown, panels, [*tasks, ALL_TASKS], COMPARISONS[:3], "difference in retention")
