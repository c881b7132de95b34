"""Differences of critical sparsity between sites, rules and models, each with an interval of its own.

Two curves are compared if they differ in one of `KINDS` only. The interval of the difference uses the correlation of
the two curves if they are scored on the same examples (`sparsedial.curves.difference`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from sparsedial.analysis.estimates import finite_number, is_true
from sparsedial.analysis.example_set import ExampleSet, find_example_set
from sparsedial.analysis.retention_curves import LabelledCurve
from sparsedial.curves.difference import MORE, PreparedCurve, compare_prepared_curves, judge_sign, prepare_curve

SITE = "site"
RULE = "rule"
MODEL = "model"
KINDS = (SITE, RULE, MODEL)
"""Columns of a curve's label in which two curves that are compared can differ."""

SCOPE_COLUMNS = ("model", "rule", "site", "layers", "task")


@dataclass(frozen=True)
class CurveDifference:
    """The critical sparsity of one site, rule or model minus that of another one, all else being equal.

    Attributes:
        other: Name of the other site, rule or model.
        value: The difference, as a fraction. None if one of the two has no estimate.
        low: Lower end of its 95% interval.
        high: Upper end of its 95% interval.
        is_paired: True if both are scored on the same examples.
    """

    other: str
    value: float | None
    low: float
    high: float
    is_paired: bool = True

    @property
    def verdict(self) -> str:
        """``more`` or ``less`` if the interval excludes that the other one tolerates as much, else ``unclear``."""
        return judge_sign(self.low, self.high)

    @property
    def is_more(self) -> bool:
        """True if the interval excludes that the other one tolerates as much."""
        return self.verdict == MORE


@dataclass(frozen=True)
class _ComparedCurve:
    curve: LabelledCurve
    prepared: PreparedCurve
    examples: ExampleSet


def difference_rows(curves: Sequence[LabelledCurve], retain: float) -> Iterator[dict[str, Any]]:
    """Compare each pair of curves of one task that differ in the site, the rule or the model only.

    Args:
        curves: The measured curves.
        retain: Share of the dense score to keep.

    Yields:
        dict[str, Any]: The columns of ``differences.csv``, see docs/output-tables.md. Pairs without an interval are
            left out.
    """
    compared = []
    for curve in curves:
        if not curve.is_at_chance:
            compared.append(_ComparedCurve(curve, prepare_curve(curve.curve, retain), find_example_set(curve)))
    for kind in KINDS:
        groups: dict[tuple[Any, ...], list[_ComparedCurve]] = defaultdict(list)
        for member in compared:
            groups[_common_conditions(member.curve, kind)].append(member)
        for members in groups.values():
            for first, second in combinations(members, 2):
                yield from _compare_curves(kind, first, second)


def _common_conditions(curve: LabelledCurve, kind: str) -> tuple[Any, ...]:
    """Return the conditions that two curves have to share to be compared with each other."""
    conditions = {"model": curve.group.model, "rule": curve.group.rule, "site": curve.group.site}
    del conditions[kind]
    return (*conditions.values(), curve.group.layers, curve.label.task, curve.averaged_tasks)


def _compare_curves(kind: str, first: _ComparedCurve, second: _ComparedCurve) -> Iterator[dict[str, Any]]:
    is_paired = first.examples == second.examples
    difference = compare_prepared_curves(first.prepared, second.prepared, is_paired)
    if difference.low is not None:
        yield {
            "comparison": kind,
            **first.curve.label.to_row(),
            "other": getattr(second.curve.group, kind),
            "same_examples": is_paired,
            "difference": difference.estimate,
            "low": difference.low,
            "high": difference.high,
            "verdict": difference.verdict,
        }


def find_differences(differences: pd.DataFrame, kind: str, row: Mapping[str, Any]) -> dict[str, CurveDifference]:
    """Return the differences of one curve from the others that differ from it in the site, the rule or the model.

    Args:
        differences: Table ``Results.differences``.
        kind: One of `KINDS`.
        row: The model, the rule, the site, the layers and the task of the curve, by their columns.

    Returns:
        The differences by the names of the other sites, rules or models. Those without a tested difference are missing.
    """
    by_name: dict[str, CurveDifference] = {}
    if differences.empty:
        return by_name
    is_same = differences["comparison"] == kind
    for column in SCOPE_COLUMNS:
        if column != kind:
            is_same &= differences[column].astype(str) == str(row[column])
    name = row[kind]
    for entry in differences[is_same].to_dict("records"):
        if entry[kind] == name:
            difference = read_difference(entry)
            by_name[difference.other] = difference
        elif entry["other"] == name:
            by_name[str(entry[kind])] = _reverse(read_difference(entry), str(entry[kind]))
    return by_name


def read_difference(entry: Mapping[Any, Any]) -> CurveDifference:
    """Read one row of the table of differences.

    Args:
        entry: The row.

    Returns:
        The difference as it is in the table.
    """
    return CurveDifference(
        other=str(entry["other"]),
        value=finite_number(entry["difference"]),
        low=float(entry["low"]),
        high=float(entry["high"]),
        is_paired=is_true(entry["same_examples"]),
    )


def _reverse(difference: CurveDifference, other: str) -> CurveDifference:
    value = difference.value
    if value is not None:
        value = -value
    return CurveDifference(other, value, -difference.high, -difference.low, difference.is_paired)
