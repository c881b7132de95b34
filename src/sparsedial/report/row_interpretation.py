"""Sentences that explain critical sparsities: their status on the curve, and their precision."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import filterfalse

from sparsedial.analysis.critical_findings import SiteFinding
from sparsedial.analysis.estimates import AT_CHANCE
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
    if finding.status == AT_CHANCE:
        return describe_chance(finding)
    if finding.sparsity.value is not None:
        sentences = [_explain_status(finding, format_retain(retain))]
    elif finding.sparsity.low is not None:
        sentences = ["The points around the critical sparsity are too far apart for an estimate."]
    else:
        return "The critical sparsity is not known."
    if finding.first_crossing is not None:
        first = format_percent(finding.first_crossing)
        sentences.append(f"Retention first falls below {format_retain(retain)} at {first}.")
    precision = describe_precision(finding)
    if finding.is_wide:
        precision = f"{WARNING} {precision}"
    if precision:
        sentences.append(precision)
    return " ".join(sentences)


def describe_chance(finding: SiteFinding) -> str:
    """Explain why a dense score at chance has no critical sparsity.

    Args:
        finding: A row whose status is `AT_CHANCE`.

    Returns:
        One sentence.
    """
    score = format_number(finding.dense_score)
    chance = format_number(finding.chance)
    return f"There is nothing to retain: the dense score {score} cannot be told from chance ({chance})."


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
    """Return what would narrow all intervals: further examples or points. Empty if nothing is needed, or would help."""
    cut_off = list(filter(_is_cut_off, findings))
    others = list(filterfalse(_is_cut_off, findings))
    examples = max(map(_count_additional_examples, others), default=0)
    if not examples and not cut_off:
        if any(finding.needs_points for finding in others):
            return f"Measurements at more values of p would narrow {intervals} to ±2 percentage points."
        return ""
    if not examples:
        return f"Measurements at higher sparsity are needed to narrow {intervals} to ±2 percentage points."
    scope = " over all tasks" if others[0].is_average else ""
    amount = "About"
    if any(finding.sparsity.is_high_censored for finding in others):
        amount = "At least"
    if cut_off:
        intervals = "some of them"
    text = f"{amount} {format_number(examples)} more examples{scope} would narrow {intervals} to ±2 percentage points."
    if cut_off:
        text += " The others need measurements at higher sparsity."
    return text


def _count_additional_examples(finding: SiteFinding) -> int:
    return finding.additional_examples or 0


def _is_cut_off(finding: SiteFinding) -> bool:
    """Return True if an interval ends at the last point, and only points of higher sparsity would narrow it."""
    if not finding.sparsity.is_high_censored or finding.is_last_sparsest:
        return False
    return finding.status == RIGHT_CENSORED or finding.additional_examples is None


def _explain_status(finding: SiteFinding, retained: str) -> str:
    lower_bound = f"A lower bound: retention at the last measured point is still at least {retained}."
    if finding.is_last_sparsest:
        lower_bound = f"Retention is still at least {retained} at the highest sparsity that the rule allows."
    explanations = {
        CROSSED: f"The retention curve crosses {retained} at this sparsity.",
        RIGHT_CENSORED: lower_bound,
        LEFT_CENSORED: (
            f"Retention is below {retained} at every measured point. The value lies before the first one. Points of "
            "lower sparsity would locate it."
        ),
    }
    return explanations.get(finding.status, sanitize_text(finding.status))
