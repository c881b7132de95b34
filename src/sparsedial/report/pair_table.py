"""The tables of differences between models, and between rules: one row per pair and one column per site."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from sparsedial.analysis.differences import MODEL, CurveDifference
from sparsedial.analysis.finding_records import PairComparison, PairGroup
from sparsedial.analysis.pair_findings import find_pairs
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import unique_in_order
from sparsedial.curves.difference import UNCLEAR
from sparsedial.ffn.feed_forward import BUILTIN_SITES
from sparsedial.report.formatting import MISSING, format_point_interval, format_points, sanitize_text
from sparsedial.report.supplementary_tables import DetailTable

MAX_LISTED_PAIRS = 15
"""Number of pairs up to which a group is listed completely. Of more, only neighbors in the order of the report are."""

CLEAR_MARK = "*"
"""Mark of an interval that excludes 0."""


def make_pair_tables(results: Results) -> list[DetailTable]:
    """Make the tables of the differences between models and between rules.

    Args:
        results: The results of one or several studies.

    Returns:
        One table for models and one for rules, if there are several.
    """
    by_kind: dict[str, list[PairGroup]] = {}
    for group in find_pairs(results):
        by_kind.setdefault(group.kind, []).append(group)
    return list(map(_make_table, by_kind, by_kind.values()))


def _make_table(kind: str, groups: Sequence[PairGroup]) -> DetailTable:
    sites = _list_sites(groups)
    shows_examples = kind == MODEL
    rows = []
    headings = []
    for group in groups:
        for pair in _select_pairs(group.pairs):
            rows.append(_make_row(pair, sites, shows_examples))
            headings.append(_describe_group(group))
    description = (
        f"Difference of critical sparsity between two {kind}s, in percentage points, with its own 95% interval. "
        f"{CLEAR_MARK} marks an interval that excludes 0. Each interval is a 95% interval by itself: of twenty, one "
        "may miss the truth. All differences, also those of single tasks, are in differences.csv."
    )
    if len(rows) < sum(map(_count_pairs, groups)):
        description += f" Of more than {MAX_LISTED_PAIRS} pairs, only neighbors in the order of the report are listed."
    columns = ["Difference", "Examples", *sites]
    if not shows_examples:
        columns.remove("Examples")
    return DetailTable(f"Differences between {kind}s", description, tuple(columns), rows, headings)


def _count_pairs(group: PairGroup) -> int:
    return len(group.pairs)


def _list_sites(groups: Sequence[PairGroup]) -> list[str]:
    names: list[str] = []
    for group in groups:
        for pair in group.pairs:
            names += [site.site for site in pair.sites]
    return unique_in_order(names, BUILTIN_SITES)


def _select_pairs(pairs: Sequence[PairComparison]) -> Sequence[PairComparison]:
    """Return all pairs or, if there are many, those of neighbors in the order of the report."""
    if len(pairs) <= MAX_LISTED_PAIRS:
        return pairs
    next_to: dict[str, PairComparison] = {}
    for pair in pairs:
        next_to.setdefault(pair.first, pair)
    return list(next_to.values())


def _make_row(pair: PairComparison, sites: Sequence[str], shows_examples: bool) -> list[str]:
    differences = {site.site: site.difference for site in pair.sites}
    row = [f"{sanitize_text(pair.first)} − {sanitize_text(pair.second)}"]
    if shows_examples:
        is_paired = all(map(attrgetter("is_paired"), differences.values()))
        row.append({True: "the same", False: "independent"}[is_paired])
    for site in sites:
        row.append(format_difference(differences.get(site)))
    return row


def format_difference(difference: CurveDifference | None) -> str:
    """Return a difference in percentage points with its interval, and a mark if the interval excludes 0.

    Args:
        difference: The difference. None gives a dash.
    """
    if difference is None:
        return MISSING
    text = format_point_interval(difference.low, difference.high)
    if difference.value is not None:
        text = f"{format_points(difference.value)} ({text})"
    if difference.verdict != UNCLEAR:
        text += CLEAR_MARK
    return text


def _describe_group(group: PairGroup) -> str:
    texts = [group.model, group.scope.task, group.scope.rule]
    if group.scope.layers is not None:
        texts.append(f"layers {group.scope.layers}")
    return " · ".join(map(sanitize_text, filter(None, texts)))
