"""Differences between models, and between rules, in English."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter

from sparsedial.analysis.finding_records import PairComparison, PairGroup, SiteDifference
from sparsedial.curves.difference import LESS, MORE, UNCLEAR
from sparsedial.report.formatting import format_list, format_point_interval, format_points, sanitize_text
from sparsedial.report.scope_text import describe_scope

MAX_DESCRIBED_PAIRS = 3
"""Number of pairs up to which each pair is described. Larger groups are counted."""

VERDICTS = {
    MORE: "more sparsity at",
    LESS: "less sparsity at",
    UNCLEAR: "no clear difference at",
}


def describe_pairs(group: PairGroup) -> str:
    """Describe the differences between models, or between rules, under the same conditions.

    Args:
        group: The pairs.

    Returns:
        One sentence per pair and one that explains the numbers or, for many pairs, one that counts them.
    """
    scope = describe_scope(group.scope)
    if group.model is not None:
        scope = f"for {sanitize_text(group.model)} {scope}"
    if len(group.pairs) > MAX_DESCRIBED_PAIRS:
        return f"Pairs of {group.kind}s {scope}: {_count_pairs(group.pairs)}"
    sentences = list(map(_describe_pair, group.pairs))
    return (
        f"{group.kind.capitalize()}s compared {scope}: {' '.join(sentences)} Differences are in percentage points, "
        f"with 95% intervals {describe_examples(group.pairs)}."
    )


def describe_examples(pairs: Sequence[PairComparison]) -> str:
    """Return whether the pairs are compared on the same examples.

    Args:
        pairs: At least one pair.

    Returns:
        A part of a sentence.
    """
    paired: set[bool] = set()
    for pair in pairs:
        paired.update(map(attrgetter("difference.is_paired"), pair.sites))
    if paired == {True}:
        return "on the same examples"
    if paired == {False}:
        return "of independent examples"
    return "partly on the same examples"


def _describe_pair(pair: PairComparison) -> str:
    by_verdict: dict[str, list[str]] = defaultdict(list)
    for site in pair.sites:
        by_verdict[site.difference.verdict].append(_describe_site(site))
    first = sanitize_text(pair.first)
    parts = []
    for verdict, words in VERDICTS.items():
        if by_verdict[verdict]:
            parts.append(f"{words} {format_list(by_verdict[verdict])}")
    return f"{first} against {sanitize_text(pair.second)}: {'; '.join(parts)}."


def _describe_site(site: SiteDifference) -> str:
    difference = site.difference
    interval = format_point_interval(difference.low, difference.high)
    if difference.value is None:
        return f"{sanitize_text(site.site)} ({interval})"
    return f"{sanitize_text(site.site)} ({format_points(difference.value)}, {interval})"


def _count_pairs(pairs: Sequence[PairComparison]) -> str:
    """Return how many of the pairs differ at each site."""
    clear: dict[str, int] = defaultdict(int)
    for pair in pairs:
        for site in pair.sites:
            clear[site.site] += site.difference.verdict != UNCLEAR
    counts = []
    for name, count in clear.items():
        counts.append(f"{count} at {sanitize_text(name)}")
    return f"of {len(pairs)} pairs, the 95% interval of the difference excludes 0 for {format_list(counts)}."
