"""Rows of the tables of critical sparsities, measured points and size trends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsedial.analysis.breakdowns import nearest_trials
from sparsedial.analysis.estimates import AT_CHANCE, TOO_FEW_EXAMPLES, Estimate, choose_answer, is_everything
from sparsedial.analysis.example_set import find_example_set
from sparsedial.analysis.retention_curves import LabelledCurve
from sparsedial.analysis.trial_set import TrialSet
from sparsedial.curves.critical import DISTANCE_TOLERANCE, CriticalSparsity
from sparsedial.curves.curve import Curve
from sparsedial.curves.paired_scores import pair_scores, retention_intervals
from sparsedial.curves.size_trend import fit_size_trend
from sparsedial.rules import RULES, Rule
from sparsedial.study.records import TrialRecord

CRITICAL_COLUMNS = (
    "sparsity",
    "low",
    "high",
    "first_crossing",
    "status",
    "p",
    "p_low",
    "p_high",
    "high_censored",
    "skippable_macs",
    "skippable_macs_low",
    "skippable_macs_high",
    "skippable_weights",
    "skippable_weights_low",
    "skippable_weights_high",
    "examples_needed",
    "needs_points",
    "is_wide",
    "answer",
)
"""Columns of the table of critical sparsities that depend on the critical sparsity."""


def critical_row(
    curve: LabelledCurve, critical: CriticalSparsity | None, task_group: str | None, precision: float
) -> dict[str, Any]:
    """Return the row of one curve in the table of critical sparsities.

    Args:
        curve: The measured curve.
        critical: Its critical sparsity. None if the dense score is at chance, or if there is no interval.
        task_group: Name of the average over a task group that contains the curve, or None.
        precision: Half width, as a fraction of sparsity, that the interval should have.

    Returns:
        The columns of ``critical.csv``, see docs/output-tables.md.
    """
    columns = _missing_columns(AT_CHANCE if curve.is_at_chance else TOO_FEW_EXAMPLES)
    if critical is not None:
        columns = _critical_columns(curve, critical, precision)
    return {
        **curve.label.to_row(),
        **columns,
        "precision": precision,
        "dense_score": curve.dense_score,
        "chance": curve.chance,
        "examples": curve.examples,
        "points": len(curve.curve.p),
        "is_last_sparsest": _is_last_sparsest(curve),
        "group": task_group,
    }


def _critical_columns(curve: LabelledCurve, critical: CriticalSparsity, precision: float) -> dict[str, Any]:
    is_wide = _is_wide(critical, _is_last_sparsest(curve), precision)
    is_censored = critical.right_censored and not is_everything(critical.low)
    estimate = Estimate(critical.estimate, critical.low, critical.high, is_high_censored=is_censored)
    macs_per_sparsity = _skippable_macs_per_sparsity(curve.trials, critical.center)
    weights_per_sparsity = _multiply(_weight_share(curve.trials), macs_per_sparsity)
    return {
        "sparsity": critical.estimate,
        "low": critical.low,
        "high": critical.high,
        "first_crossing": critical.first_crossing,
        "status": critical.status,
        "p": _interpolated_p(curve, critical),
        "p_low": critical.p_low,
        "p_high": critical.p_high,
        "high_censored": critical.right_censored,
        "skippable_macs": _multiply(critical.estimate, macs_per_sparsity),
        "skippable_macs_low": _multiply(critical.low, macs_per_sparsity),
        "skippable_macs_high": _multiply(critical.high, macs_per_sparsity),
        "skippable_weights": _multiply(critical.estimate, weights_per_sparsity),
        "skippable_weights_low": _multiply(critical.low, weights_per_sparsity),
        "skippable_weights_high": _multiply(critical.high, weights_per_sparsity),
        "examples_needed": critical.examples_needed(curve.examples, precision),
        "needs_points": critical.needs_points(precision),
        "is_wide": is_wide,
        "answer": choose_answer(estimate, is_wide),
    }


def _multiply(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first * second


def _missing_columns(status: str) -> dict[str, Any]:
    """Return the columns of `_critical_columns` for a curve without a critical sparsity."""
    columns: dict[str, Any] = dict.fromkeys(CRITICAL_COLUMNS)
    return {**columns, "status": status, "high_censored": False, "needs_points": False, "is_wide": False}


def _find_rule(curve: LabelledCurve) -> type[Rule]:
    rule = curve.trials[0].identity.rule
    if rule is None:
        raise ValueError("expected a sparse trial, got a dense trial, which has no rule")
    return RULES[rule.name]


def _is_last_sparsest(curve: LabelledCurve) -> bool:
    """Return True if the rule has no value that is sparser than the last point of the curve."""
    return bool(_find_rule(curve).distance_from_dense(curve.curve.p[-1]) >= 1.0)


def point_rows(curve: LabelledCurve, trial_set: TrialSet) -> list[dict[str, Any]]:
    """Return one row per measured point of a curve.

    Args:
        curve: The measured curve.
        trial_set: The trials that the curve was read from.

    Returns:
        The columns of ``points.csv``, see docs/output-tables.md.
    """
    points = curve.curve
    low = np.full(len(points.p), np.nan)
    high = np.full(len(points.p), np.nan)
    scores = pair_scores(points)
    if scores is not None:
        low, high = retention_intervals(scores)
    choice_by_p = {record.p: trial_set.explain_choice(record) for record in curve.trials}
    rows = []
    for index, p in enumerate(points.p):
        rows.append(
            {
                **curve.label.to_row(),
                "p": p,
                "sparsity": points.sparsity[index],
                "score": curve.scores[index],
                "dense_score": curve.dense_score,
                "retention": points.retention[index],
                "low": low[index],
                "high": high[index],
                "chosen_by": choice_by_p[p],
            }
        )
    return rows


def trend_rows(curves: Sequence[LabelledCurve], retain: float) -> list[dict[str, Any]]:
    """Return the size trend of each family that has models of several sizes, by rule, layers, task and site.

    Args:
        curves: Measured curves and their averages.
        retain: Share of the dense score to keep, in (0, 1].

    Returns:
        The columns of ``trends.csv``, see docs/output-tables.md.
    """
    families: dict[tuple[Any, ...], list[LabelledCurve]] = defaultdict(list)
    for curve in curves:
        if curve.is_at_chance or not curve.curve.examples:
            continue
        group = curve.group
        families[group.family, group.rule, group.layers, curve.label.task, group.site].append(curve)
    rows = []
    for members in families.values():
        sizes: list[int] = []
        points: list[Curve] = []
        for member in members:
            sizes.append(member.group.parameters)
            points.append(member.curve)
        if len(set(sizes)) < 2:
            continue
        same_examples = len(set(map(find_example_set, members))) == 1
        trend = fit_size_trend(sizes, points, retain, same_examples)
        label = members[0].label.to_row()
        rows.append(
            {
                "family": label["family"],
                "rule": label["rule"],
                "layers": label["layers"],
                "task": label["task"],
                "site": label["site"],
                "models": len(members),
                "smallest": min(sizes),
                "largest": max(sizes),
                "slope": trend.slope,
                "low": trend.low,
                "high": trend.high,
                "rising": trend.rising,
                "steps": trend.steps,
                "censored": trend.censored,
                "verdict": trend.verdict,
            }
        )
    return rows


def _is_wide(critical: CriticalSparsity, is_last_sparsest: bool, precision: float) -> bool:
    """Return True if the interval is wider than ``precision`` on both sides, or may end beyond the last point."""
    if critical.low is None or critical.high is None:
        return False
    if critical.right_censored and not is_last_sparsest and not is_everything(critical.low):
        return True
    return critical.high - critical.low > 2 * precision + DISTANCE_TOLERANCE


def _skippable_macs_per_sparsity(trials: Sequence[TrialRecord], sparsity: float) -> float:
    """Return the share of skippable MACs per unit of sparsity, at the measured point nearest to ``sparsity``.

    The two vectors of `all_inputs` are not equally sparse, so the share is computed from the counts of each vector.
    """
    sparse = [record for record in trials if record.result.dropped]
    if not sparse:
        return 0.0
    nearest = nearest_trials(sparse, sparsity)
    dropped: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for record in nearest:
        for count in record.counts:
            dropped[count.vector] += count.dropped
            total[count.vector] += count.total
    shares = nearest[0].skippable_macs
    skipped = 0.0
    for vector, entries in total.items():
        skipped += shares[vector] * dropped[vector] / entries
    return skipped * sum(total.values()) / sum(dropped.values())


def _weight_share(trials: Sequence[TrialRecord]) -> float | None:
    """Return the share of the weights read per token that was sparsified, or None if a trial does not state it."""
    shares = {record.weight_share for record in trials if record.identity.site is not None}
    return shares.pop() if len(shares) == 1 else None


def _interpolated_p(curve: LabelledCurve, critical: CriticalSparsity) -> float | None:
    """Return the rule parameter at the estimate of critical sparsity, or None if there is no estimate.

    Below the first point, it is interpolated between the rule's dense value and the parameter of that point.
    """
    points = curve.curve
    if critical.p is not None or critical.estimate is None or not np.isfinite(points.p[0]):
        return critical.p
    dense = _find_rule(curve).dense_value
    return float(dense + (points.p[0] - dense) * critical.estimate / points.sparsity[0])
