"""Two models, or two rules, side by side: both critical sparsities and their difference at each site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

from sparsedial.analysis.critical_findings import SiteFinding, read_site_findings
from sparsedial.analysis.finding_records import PairComparison, PairGroup
from sparsedial.analysis.pair_findings import find_pairs
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows, unique_in_order
from sparsedial.report.droppable_share import format_droppable_share
from sparsedial.report.formatting import MISSING, sanitize_text
from sparsedial.report.pair_table import CLEAR_MARK, format_difference
from sparsedial.report.scope_text import describe_scope
from sparsedial.report.supplementary_tables import DetailTable

MAX_PAIRS = 3
"""Number of pairs of a group up to which each pair has a table of its own."""

Key = tuple[str, str, str, str, str]


def make_side_by_side_tables(results: Results) -> Iterator[DetailTable]:
    """Make a table for each pair of models and of rules, if there are few of them.

    Args:
        results: The results of one or several studies.

    Yields:
        DetailTable: One table per pair, with a row per site.
    """
    findings: dict[Key, SiteFinding] = {}
    for finding in read_site_findings(sort_rows(results.critical)):
        findings[finding.model, finding.rule, finding.layers, finding.task, finding.site] = finding
    rule_names = unique_in_order(map(attrgetter("rule"), findings.values()))
    for group in find_pairs(results):
        if len(group.pairs) > MAX_PAIRS:
            continue
        for pair in group.pairs:
            yield _make_table(group, pair, findings, rule_names)


def _make_table(
    group: PairGroup, pair: PairComparison, findings: Mapping[Key, SiteFinding], rules: list[str]
) -> DetailTable:
    rows = []
    for site in pair.sites:
        cells = [sanitize_text(site.site)]
        for name in (pair.first, pair.second):
            finding = findings.get(_key(group, name, site.site, rules))
            cells.append(_describe(finding))
        cells.append(format_difference(site.difference))
        cells.append({True: "the same", False: "independent"}[site.difference.is_paired])
        rows.append(cells)
    first = sanitize_text(pair.first)
    second = sanitize_text(pair.second)
    scope = describe_scope(group.scope)
    if group.model is not None:
        scope = f"for {sanitize_text(group.model)} {scope}"
    return DetailTable(
        heading=f"{first} against {second}",
        description=(
            f"{first} against {second} {scope}. The difference is in percentage points. Where both are scored on the "
            f"same examples, its 95% interval is a paired one. {CLEAR_MARK} marks an interval that excludes 0."
        ),
        columns=("Site", first, second, "Difference (95% CI)", "Examples"),
        rows=rows,
        groups=[""] * len(rows),
    )


def _describe(finding: SiteFinding | None) -> str:
    if finding is None:
        return MISSING
    return format_droppable_share(finding)


def _key(group: PairGroup, name: str, site: str, rules: list[str]) -> Key:
    layers = group.scope.layers or "all"
    conditions: dict[str, Any] = {"model": group.model, "rule": group.scope.rule or "".join(rules[:1])}
    conditions[group.kind] = name
    return str(conditions["model"]), str(conditions["rule"]), layers, group.scope.task, site
