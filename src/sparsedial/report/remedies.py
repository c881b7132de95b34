"""What would narrow the 95% intervals of critical sparsities: further examples, values of p, or higher sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import filterfalse
from operator import attrgetter

from sparsedial.analysis.critical_findings import SiteFinding
from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.report.formatting import format_list, format_number

IS_UNDECIDED = attrgetter("is_undecided")
HIGHER_SPARSITY = "measurements at higher sparsity"
MORE_VALUES = "measurements at more values of p"
FOR_ANY_SHARE = "More examples or measurements at lower sparsity are needed to show that any of them can be dropped."
"""What is needed if no point is shown to keep the score, although the interval is narrow or nothing would narrow it."""


def describe_remedies(findings: Sequence[SiteFinding]) -> str:
    """Describe what is needed to narrow all intervals to the precision that their study requests.

    Args:
        findings: Rows of the table of critical sparsities.

    Returns:
        One sentence. Empty if nothing is needed, or if nothing is known to help.
    """
    remedies = list_remedies(findings)
    if not remedies:
        if any(map(IS_UNDECIDED, findings)):
            return FOR_ANY_SHARE
        return ""
    intervals = "all of these intervals"
    if len(findings) == 1:
        intervals = "the interval"
    return f"{remedies[0].upper()}{remedies[1:]} are needed to narrow {intervals} to {format_precision(findings)}."


def format_precision(findings: Sequence[SiteFinding]) -> str:
    """Return the half width that the intervals of some rows should have.

    Args:
        findings: At least one row of the table of critical sparsities.

    Returns:
        The half width in percentage points, such as ``±2 percentage points``, if it is the same for all rows.
    """
    half_widths = set(map(attrgetter("precision"), findings))
    if len(half_widths) > 1:
        return "the precision that their study requests"
    return f"±{100 * half_widths.pop():g} percentage points"


def list_remedies(findings: Sequence[SiteFinding]) -> str:
    """List what is needed to narrow all intervals to the precision that their study requests.

    Args:
        findings: Rows of the table of critical sparsities.

    Returns:
        The start of a sentence, in lower case. Empty if nothing is needed, or if nothing is known to help.
    """
    remedies = []
    examples = max(map(_count_examples, findings), default=0)
    if examples:
        remedy = f"about {format_number(examples)} more examples"
        if any(map(_is_bound, findings)):
            remedy = f"at least {format_number(examples)} more examples"
        if any(map(attrgetter("is_average"), findings)):
            remedy += " over all tasks"
        remedies.append(remedy)
    if any(map(_is_cut_off, findings)):
        remedies.append(HIGHER_SPARSITY)
    if any(map(attrgetter("needs_points"), filterfalse(_is_cut_off, findings))):
        remedies.append(MORE_VALUES)
    if not remedies:
        return ""
    return format_list(remedies)


def _count_examples(finding: SiteFinding) -> int:
    """Return the number of further examples that are needed. More examples do not help where a curve is cut off."""
    if _is_cut_off(finding) and finding.status == RIGHT_CENSORED:
        return 0
    return finding.additional_examples or 0


def _is_bound(finding: SiteFinding) -> bool:
    """Return True if more examples may be needed than the estimated number, or if they alone are not enough."""
    return finding.sparsity.is_high_censored or finding.is_undecided or finding.needs_points


def _is_cut_off(finding: SiteFinding) -> bool:
    """Return True if an interval has no upper end, and sparser points could be measured."""
    return finding.sparsity.is_high_censored and not finding.is_last_sparsest
