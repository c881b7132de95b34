"""Sentences that explain critical sparsities: their status on the curve, and their precision."""

from __future__ import annotations

from collections.abc import Sequence

from sparsedial.analysis.critical_findings import SiteFinding
from sparsedial.curves.critical import CROSSED, LEFT_CENSORED, RIGHT_CENSORED
from sparsedial.report.formatting import format_number, format_percent, format_retain, sanitize_text

WARNING = "⚠"


def interpret_row(finding: SiteFinding, retain: float) -> str:
    """Explain a row of the table of critical sparsities.

    Args:
        finding: The row.
        retain: Share of the dense score that has to be kept.

    Returns:
        One to four sentences.
    """
    if finding.sparsity.value is None:
        return "The critical sparsity is not known."
    sentences = [_explain_status(finding.status, format_retain(retain))]
    if finding.first_crossing is not None:
        first = format_percent(finding.first_crossing)
        sentences.append(f"Retention first falls below {format_retain(retain)} at {first}.")
    precision = describe_precision(finding)
    if finding.is_wide:
        precision = f"{WARNING} {precision}"
    if precision:
        sentences.append(precision)
    return " ".join(sentences)


def describe_precision(finding: SiteFinding) -> str:
    """Describe an interval that is wide, and the examples that would narrow it.

    Args:
        finding: A row of the table of critical sparsities.

    Returns:
        One or two sentences. Empty if the interval is within ±2 percentage points.
    """
    if finding.is_wide:
        return describe_wide_intervals([finding])
    return _describe_need([finding], "the 95% interval")


def describe_wide_intervals(findings: Sequence[SiteFinding]) -> str:
    """Describe wide intervals, and the examples that would narrow all of them.

    Args:
        findings: Rows of the table of critical sparsities whose intervals are wide.

    Returns:
        One or two sentences.
    """
    verb = "is"
    if all(finding.sparsity.is_high_censored for finding in findings):
        verb = "may be"
    intervals = "it" if len(findings) == 1 else "all of them"
    return f"The 95% interval {verb} wider than 10 percentage points. {_describe_need(findings, intervals)}".strip()


def _describe_need(findings: Sequence[SiteFinding], intervals: str) -> str:
    """Return a sentence with the number of further examples that narrow all intervals. Empty if none are needed."""
    is_censored = any(finding.sparsity.is_high_censored for finding in findings)
    examples = max(finding.additional_examples or 0 for finding in findings)
    scope = " over all tasks" if findings[0].is_average else ""
    if examples:
        amount = "At least" if is_censored else "About"
        number = format_number(examples)
        return f"{amount} {number} more examples{scope} would narrow {intervals} to ±2 percentage points."
    if is_censored:
        return f"Measurements at higher sparsity are needed to narrow {intervals} to ±2 percentage points."
    return ""


def _explain_status(status: str, retained: str) -> str:
    explanations = {
        CROSSED: f"The retention curve crosses {retained} at this sparsity.",
        RIGHT_CENSORED: f"A lower bound: retention at the last measured point is still at least {retained}.",
        LEFT_CENSORED: f"Retention is below {retained} at every measured point. The value lies before the first one.",
    }
    return explanations.get(status, sanitize_text(status))
