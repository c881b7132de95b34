"""Rows of the tables of critical sparsities, measured points and size trends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsedial.analysis.breakdowns import nearest_trials
from sparsedial.analysis.estimates import TARGET_HALF_WIDTH, WIDE_INTERVAL
from sparsedial.analysis.retention_curves import LabelledCurve
from sparsedial.analysis.trial_set import TrialSet
from sparsedial.curves.bootstrap import resample_retention
from sparsedial.curves.critical import CriticalSparsity
from sparsedial.curves.curve import Curve
from sparsedial.curves.size_trend import fit_size_trend
from sparsedial.rules import RULES
from sparsedial.study.records import TrialRecord


def critical_row(curve: LabelledCurve, critical: CriticalSparsity, task_group: str | None) -> dict[str, Any]:
    """Return the row of one curve in the table of critical sparsities.

    Args:
        curve: The measured curve.
        critical: Its critical sparsity.
        task_group: Name of the average over a task group that contains the curve, or None.

    Returns:
        The columns of ``critical.csv``, see docs/output-tables.md.
    """
    macs_per_sparsity = _skippable_macs_per_sparsity(curve.trials, critical.value)
    return {
        **curve.label.to_row(),
        "sparsity": critical.value,
        "low": critical.low,
        "high": critical.high,
        "first_crossing": critical.first_crossing,
        "status": critical.status,
        "p": _interpolated_p(curve, critical),
        "high_censored": critical.high_censored,
        "skippable_macs": macs_per_sparsity * critical.value,
        "skippable_macs_low": None if critical.low is None else macs_per_sparsity * critical.low,
        "skippable_macs_high": None if critical.high is None else macs_per_sparsity * critical.high,
        "dense_score": curve.curve.dense,
        "examples": curve.examples,
        "examples_needed": critical.examples_needed(curve.examples, TARGET_HALF_WIDTH),
        "is_wide": _is_wide(critical),
        "points": len(curve.curve.p),
        "group": task_group,
    }


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
    if points.examples:
        low, high = np.quantile(resample_retention(points), [0.025, 0.975], axis=0)
    choice_by_p = {record.p: trial_set.explain_choice(record) for record in curve.trials}
    rows = []
    for index, p in enumerate(points.p):
        rows.append(
            {
                **curve.label.to_row(),
                "p": p,
                "sparsity": points.sparsity[index],
                "score": points.score[index],
                "dense_score": points.dense,
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
        trend = fit_size_trend(sizes, points, retain)
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


def _is_wide(critical: CriticalSparsity) -> bool:
    if critical.low is None or critical.high is None:
        return False
    return critical.high_censored or critical.high - critical.low > WIDE_INTERVAL


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


def _interpolated_p(curve: LabelledCurve, critical: CriticalSparsity) -> float | None:
    """Return the rule parameter at the critical sparsity.

    Below the first point, it is interpolated between the rule's dense value and the parameter of that point.
    """
    points = curve.curve
    if critical.p is not None or not np.isfinite(points.p[0]):
        return critical.p
    dense = RULES[curve.group.rule].dense_value
    return float(dense + (points.p[0] - dense) * critical.value / points.sparsity[0])
