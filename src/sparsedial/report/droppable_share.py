"""The sentence that answers how many activations can be dropped.

A reader who wants to rely on a number gets the lower end of the interval, and a reader who compares gets the estimate.
The lower end comes first where the interval is wide. If it is 0, the sentence says that the data do not decide.
"""

from __future__ import annotations

from sparsedial.analysis.critical_findings import SiteFinding
from sparsedial.report.formatting import (
    format_estimate,
    format_list,
    format_number,
    format_percent,
    format_sparsity,
    sanitize_text,
)

CONFIDENCE = "97.5%"
"""Confidence of the lower end alone: the error probability of a 95% interval is the same at both of its ends."""


def describe_droppable_share(finding: SiteFinding, condition: str, comparison: str = "") -> str:
    """Describe the share of the activations that can be dropped.

    Args:
        finding: A row of the table of critical sparsities.
        condition: The condition that the sparse model meets, such as ``" while at least 99% of the score is kept"``.
        comparison: What the estimate is compared with, such as ``", the most of the 5 sites"``.

    Returns:
        One to four sentences. The first one starts in lower case.
    """
    activations = f"of the {sanitize_text(finding.site)} activations"
    low = finding.sparsity.low
    if low is not None and low <= 0.0:
        return _join(
            f"the data do not decide how many {activations} can be dropped{condition}: {_describe_range(finding)}.",
            _describe_estimate(finding, comparison),
            _describe_remedy(finding),
        )
    if low is not None and (finding.is_undecided or finding.sparsity.value is None):
        return _join(
            f"at least {format_percent(low)} {activations} can be dropped{condition} ({CONFIDENCE} confidence), "
            f"{_describe_upper_end(finding)}.",
            _describe_estimate(finding, comparison),
            _describe_remedy(finding),
        )
    share = format_estimate(finding.sparsity).replace("≥ ", "at least ")
    return _join(
        f"{share} {activations} can be dropped{condition}{comparison}.",
        _describe_remedy(finding) if finding.is_wide else "",
    )


def _describe_range(finding: SiteFinding) -> str:
    examples = f"with {format_number(finding.examples)} examples"
    if finding.sparsity.is_high_censored:
        return f"{examples}, no measured point is shown to keep the score, and the last one is not shown to lose it"
    return f"{examples}, the 95% interval reaches from 0% to {format_percent(finding.sparsity.high)}"


def _describe_upper_end(finding: SiteFinding) -> str:
    if finding.sparsity.is_high_censored:
        return "and possibly more than at the last measured point"
    return f"and less than {format_percent(finding.sparsity.high)}"


def _describe_estimate(finding: SiteFinding, comparison: str) -> str:
    estimate = finding.sparsity
    if estimate.value is None:
        return ""
    share = format_sparsity(estimate.value, estimate.is_lower_bound).replace("≥ ", "at least ")
    first = ""
    if finding.first_crossing is not None:
        first = f"; retention first falls below the threshold at {format_percent(finding.first_crossing)}"
    return f"The estimate is {share}{comparison}{first}."


def _describe_remedy(finding: SiteFinding) -> str:
    """Return a sentence that says what would narrow the interval. Empty if nothing is known to."""
    remedies = []
    if finding.additional_examples:
        scope = " over all tasks" if finding.is_average else ""
        amount = "at least" if finding.sparsity.is_high_censored else "about"
        remedies.append(f"{amount} {format_number(finding.additional_examples)} more examples{scope}")
    if finding.sparsity.is_high_censored and not finding.is_last_sparsest:
        remedies.append("measurements at higher sparsity")
    elif finding.needs_points:
        remedies.append("measurements at more values of p")
    if not remedies:
        return ""
    remedy = format_list(remedies)
    return f"{remedy[0].upper()}{remedy[1:]} would narrow the interval to ±2 percentage points."


def _join(*sentences: str) -> str:
    return " ".join(filter(None, sentences))
