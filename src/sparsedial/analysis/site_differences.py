"""Differences of critical sparsity between the sites of one model, tested on the same examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.retention_curves import LabelledCurve
from sparsedial.curves.difference import MORE, critical_difference, judge_sign

SITE_COLUMN = "site"
OTHER_COLUMN = "other_site"


@dataclass(frozen=True)
class SiteDifference:
    """The critical sparsity of one site minus that of another site of the same model, on the same task.

    Attributes:
        other: Name of the other site.
        value: The difference, as a fraction. None if one of the sites has no estimate.
        low: Lower end of its 95% interval.
        high: Upper end of its 95% interval.
    """

    other: str
    value: float | None
    low: float
    high: float

    @property
    def is_more(self) -> bool:
        """True if the interval excludes that the other site tolerates as much."""
        return judge_sign(self.low, self.high) == MORE


def difference_rows(curves: Sequence[LabelledCurve], retain: float) -> Iterator[dict[str, Any]]:
    """Compare each pair of sites of one model, rule and task.

    Args:
        curves: The measured curves.
        retain: Share of the dense score to keep.

    Yields:
        dict[str, Any]: The columns of ``differences.csv``, see docs/output-tables.md. Pairs without an interval are
            left out.
    """
    groups: dict[tuple[Any, ...], list[LabelledCurve]] = defaultdict(list)
    for curve in curves:
        if not curve.is_at_chance:
            group = curve.group
            tasks = (curve.label.task, curve.averaged_tasks)
            groups[group.model, group.parameters, group.rule, group.layers, tasks].append(curve)
    for members in groups.values():
        for first, second in combinations(members, 2):
            difference = critical_difference(first.curve, second.curve, retain)
            if difference.low is None:
                continue
            yield {
                **first.label.to_row(),
                OTHER_COLUMN: second.group.site,
                "difference": difference.estimate,
                "low": difference.low,
                "high": difference.high,
                "verdict": difference.verdict,
            }


def find_differences(differences: pd.DataFrame, row: Mapping[str, Any]) -> dict[str, SiteDifference]:
    """Return the differences of one site from the other sites.

    Args:
        differences: Table ``Results.differences``.
        row: The model, the rule, the layers, the task and the site, by their columns.

    Returns:
        The differences by the names of the other sites. Sites without a tested difference are missing.
    """
    by_site: dict[str, SiteDifference] = {}
    if differences.empty:
        return by_site
    is_same = pd.Series(True, index=differences.index)
    for column in ("model", "rule", "layers", "task"):
        is_same &= differences[column].astype(str) == str(row[column])
    site = row[SITE_COLUMN]
    for entry in differences[is_same].to_dict("records"):
        value = finite_number(entry["difference"])
        low = float(entry["low"])
        high = float(entry["high"])
        if entry[SITE_COLUMN] == site:
            other = str(entry[OTHER_COLUMN])
            by_site[other] = SiteDifference(other, value, low, high)
        elif entry[OTHER_COLUMN] == site:
            other = str(entry[SITE_COLUMN])
            by_site[other] = SiteDifference(other, None if value is None else -value, -high, -low)
    return by_site
