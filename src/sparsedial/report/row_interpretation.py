"""Sentences that explain critical sparsities: their status on the curve, and their precision."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from sparsedial.analysis.critical_findings import SiteFinding
from sparsedial.analysis.estimates import AT_CHANCE, AT_LEAST, TOO_FEW_EXAMPLES
from sparsedial.curves.critical import CROSSED, LEFT_CENSORED, RIGHT_CENSORED
from sparsedial.report.formatting import format_number, format_percent, sanitize_text
from sparsedial.report.remedies import describe_remedies, format_precision, list_remedies
from sparsedial.study.requirement_text import CurveWords, describe_curve, format_required

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
    if finding.status == TOO_FEW_EXAMPLES:
        return "At least two examples of each task are needed for a critical sparsity and its interval."
    words = describe_curve(retain)
    sentences = []
    if finding.is_undecided:
        sentences.append(f"{WARNING} Not decided: no measured point is shown to keep {format_required(retain)}.")
    if finding.sparsity.value is not None:
        sentences.append(_explain_status(finding, words))
    elif finding.sparsity.low is not None:
        sentences.append("The points around the critical sparsity are too far apart for an estimate.")
    else:
        return "The critical sparsity is not known."
    if finding.first_crossing is not None:
        first = format_percent(finding.first_crossing)
        sentences.append(f"{_capitalize(words.quantity)} is first {words.lost} at {first}.")
    sentences.append(describe_precision(finding))
    return " ".join(filter(None, sentences))


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
    """Describe an interval that is wider than it should be, and what would narrow it.

    Args:
        finding: A row of the table of critical sparsities.

    Returns:
        One sentence. Empty if the estimate is the answer.
    """
    if finding.is_estimate:
        return ""
    if not finding.is_wide:
        return describe_remedies([finding])
    verb = "may be" if finding.sparsity.is_high_censored else "is"
    text = f"The 95% interval {verb} wider than {format_precision([finding])}"
    remedies = list_remedies([finding])
    if remedies:
        text += f": {remedies} are needed"
    return f"{text}."


def describe_wide_rows(findings: Sequence[SiteFinding], retain: float) -> list[str]:
    """Explain the rows of a table in which the estimate is not the answer, and what would narrow their intervals.

    Args:
        findings: The rows of the table.
        retain: Share of the dense score that has to be kept.

    Returns:
        At most one note for the rows that give a lower end, and one for those that are not decided.
    """
    notes = []
    wide = [finding for finding in findings if finding.answer == AT_LEAST]
    if wide:
        notes.append(
            "at least: the lower end of a 95% interval, for an interval that is, or may be, wider than "
            f"{format_precision(wide)}. p and skippable MACs are those at the lower end. {describe_remedies(wide)}"
        )
    undecided = list(filter(attrgetter("is_undecided"), findings))
    if undecided:
        notes.append(
            f"{WARNING} not decided: no measured point is shown to keep {format_required(retain)}. "
            f"{describe_remedies(undecided)}"
        )
    return list(map(str.strip, notes))


def _explain_status(finding: SiteFinding, words: CurveWords) -> str:
    quantity = _capitalize(words.quantity)
    lower_bound = f"A lower bound: {words.quantity} at the last measured point is still {words.kept}."
    if finding.is_last_sparsest:
        lower_bound = f"{quantity} is still {words.kept} at the highest sparsity that the rule allows."
    if not finding.sparsity.is_lower_bound:
        lower_bound = f"{quantity} is still {words.kept} at 100% sparsity."
    crossing = "this sparsity"
    if not finding.is_estimate:
        crossing = "the estimate"
    explanations = {
        CROSSED: f"{words.crossing} at {crossing}.",
        RIGHT_CENSORED: lower_bound,
        LEFT_CENSORED: (
            f"{quantity} is {words.lost} at every measured point. The value lies before the first one. Points of lower "
            "sparsity would locate it."
        ),
    }
    return explanations.get(finding.status, sanitize_text(finding.status))


def _capitalize(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
