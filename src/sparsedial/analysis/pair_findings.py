"""Pairs of models, and of rules, compared by the intervals of their differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from sparsedial.analysis.differences import MODEL, RULE, read_difference
from sparsedial.analysis.finding_records import Conditions, PairComparison, PairGroup, SiteDifference
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows
from sparsedial.analysis.row_selection import headline_rows

GROUP_COLUMNS = {
    MODEL: ["rule", "layers", "task"],
    RULE: ["model", "layers", "task"],
}
"""Conditions that all pairs of a group share, by the kind of comparison."""


def find_pairs(results: Results) -> tuple[PairGroup, ...]:
    """Find the pairs of models and of rules that were compared.

    Only task averages are included, or single tasks of models without an average (`headline_rows`).

    Args:
        results: The results of one or several studies.

    Returns:
        One group per condition, models first. Empty if there is only one model and one rule.
    """
    if results.differences.empty or results.critical.empty:
        return ()
    headline = headline_rows(results.critical)
    tasks = set(zip(headline["model"], headline["task"], strict=True))
    differences = sort_rows(results.differences)
    is_headline = list(map(tasks.__contains__, zip(differences["model"], differences["task"], strict=True)))
    shows_rule = results.critical["rule"].nunique() > 1
    return tuple(_group_pairs(differences[is_headline], shows_rule))


def _group_pairs(differences: pd.DataFrame, shows_rule: bool) -> Iterator[PairGroup]:
    for kind, columns in GROUP_COLUMNS.items():
        rows = differences[differences["comparison"] == kind]
        for values, members in rows.groupby(columns, sort=False):
            conditions = dict(zip(columns, map(str, values), strict=True))
            scope = Conditions.from_results(
                conditions["task"], conditions.get("rule"), conditions["layers"], shows_rule
            )
            model = conditions.get("model")
            pairs = []
            for (first, second), sites in members.groupby([kind, "other"], sort=False):
                pairs.append(PairComparison(str(first), str(second), _read_sites(sites)))
            yield PairGroup(kind, scope, model, tuple(pairs))


def _read_sites(rows: pd.DataFrame) -> tuple[SiteDifference, ...]:
    sites: list[SiteDifference] = []
    entries: list[dict[Any, Any]] = rows.to_dict("records")
    for entry in entries:
        sites.append(SiteDifference(str(entry["site"]), read_difference(entry)))
    return tuple(sites)
