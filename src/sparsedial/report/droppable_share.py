"""How many activations can be dropped, as a sentence and as a cell of a table.

A reader who wants to rely on a number gets the lower end of the interval, and a reader who compares gets the estimate.
The lower end comes first where the interval is wide. If it is 0, the text says that the data do not decide
(`sparsedial.analysis.estimates.choose_answer`).
"""

from __future__ import annotations

from sparsedial.analysis.critical_findings import SiteFinding
from sparsedial.analysis.estimates import AT_CHANCE, AT_LEAST, TOO_FEW_EXAMPLES, UNDECIDED, Estimate, is_everything
from sparsedial.report.formatting import (
    format_estimate,
    format_interval,
    format_number,
    format_percent,
    format_sparsity,
    sanitize_text,
)
from sparsedial.report.remedies import describe_remedies

CONFIDENCE = "97.5%"
"""Confidence of the lower end alone: the error probability of a 95% interval is the same at both of its ends."""

NOTHING_TO_RETAIN = "nothing to retain"
"""Text in place of the critical sparsity if the dense score is at chance."""


def describe_droppable_share(
    finding: SiteFinding, condition: str, comparison: str = "", site_count: int = 1
) -> list[str]:
    """Describe the share of the activations that can be dropped.

    Args:
        finding: A row of the table of critical sparsities.
        condition: The condition that the sparse model meets, such as ``" while at least 99% of the score is kept"``.
        comparison: What the estimate is compared with, such as ``", the most of the 5 sites"``.
        site_count: Number of sites for which an answer of ``undecided`` holds. Defaults to 1.

    Returns:
        One to four sentences. The first one starts in lower case and holds the answer.
    """
    activations = f"of the {sanitize_text(finding.site)} activations"
    if finding.answer == UNDECIDED:
        where = ""
        if site_count > 1:
            activations = f"of the activations at any of the {site_count} sites"
            where = f" at {sanitize_text(finding.site)}"
        text = (
            f"the data do not decide how many {activations} can be dropped{condition}: it is {_describe_range(finding)}"
            f"{where}, with {format_number(finding.examples)} examples"
        )
        remedy = describe_remedies([finding])
        if remedy:
            text += f"; {remedy[0].lower()}{remedy[1:].removesuffix('.')}"
        return _drop_empty(f"{text}.", _describe_estimate(finding, comparison))
    if finding.answer == AT_LEAST:
        setting = ""
        if finding.p_low is not None:
            setting = f" at p = {format_number(finding.p_low)}"
        return _drop_empty(
            f"at least {format_percent(finding.sparsity.low)} {activations} can be dropped{setting}{condition} "
            f"({CONFIDENCE} confidence), {_describe_upper_end(finding)}.",
            _describe_estimate(finding, comparison),
            describe_remedies([finding]),
        )
    share = format_estimate(finding.sparsity).replace("≥ ", "at least ")
    return [f"{share} {activations} can be dropped{condition}{comparison}{_describe_first_crossing(finding)}."]


def format_droppable_share(finding: SiteFinding) -> str:
    """Return the critical sparsity as a cell of a table: the number that answers, and then the others.

    Args:
        finding: A row of the table of critical sparsities.

    Returns:
        The estimate with its interval, the lower end followed by both, or the bracket.
    """
    sparsity = finding.sparsity
    if finding.status == AT_CHANCE:
        return NOTHING_TO_RETAIN
    if finding.status == TOO_FEW_EXAMPLES:
        return TOO_FEW_EXAMPLES
    estimate = ""
    if sparsity.value is not None:
        estimate = f", estimate {format_sparsity(sparsity.value, sparsity.is_lower_bound)}"
    if finding.answer == UNDECIDED:
        return f"{_describe_range(finding)}{estimate}"
    if finding.answer == AT_LEAST:
        interval = format_interval(sparsity.low, sparsity.high, sparsity.is_high_censored)
        return f"at least {format_percent(sparsity.low)}{estimate} ({interval})"
    return format_estimate(sparsity)


def format_droppable_p(finding: SiteFinding) -> str:
    """Return the rule parameter that belongs to the number that answers.

    Args:
        finding: A row of the table of critical sparsities.

    Returns:
        The rule parameter, or a dash if no point is shown to keep the score.
    """
    values = {AT_LEAST: finding.p_low, UNDECIDED: None}
    return format_number(values.get(finding.answer, finding.p))


def format_droppable_macs(finding: SiteFinding) -> str:
    """Return the share of skippable MACs that belongs to the number that answers.

    Args:
        finding: A row of the table of critical sparsities.

    Returns:
        The share with its interval, its lower end, or its bracket.
    """
    return _format_skippable(finding, finding.skippable_macs)


def format_droppable_weights(finding: SiteFinding) -> str:
    """Return the share of all weights that can be skipped, which belongs to the number that answers.

    Args:
        finding: A row of the table of critical sparsities.

    Returns:
        The share with its interval, its lower end, or its bracket.
    """
    return _format_skippable(finding, finding.skippable_weights)


def format_perplexity_share(sparsity: Estimate) -> str:
    """Return the critical sparsity by the perplexity criterion as a cell of a table.

    Args:
        sparsity: The critical sparsity.

    Returns:
        The estimate with its interval, the interval alone, or a dash if no perplexity is known.
    """
    if sparsity.value is None and sparsity.high is not None:
        return format_interval(sparsity.low, sparsity.high, sparsity.is_high_censored)
    return format_estimate(sparsity)


def _format_skippable(finding: SiteFinding, share: Estimate) -> str:
    if finding.answer == UNDECIDED:
        return format_interval(share.low, share.high, share.is_high_censored)
    if finding.answer == AT_LEAST and share.low is not None:
        return f"at least {format_percent(share.low)}"
    return format_estimate(share)


def _describe_range(finding: SiteFinding) -> str:
    """Return the interval of a row whose lower end is 0. An interval without an upper end reaches to 100%."""
    if finding.sparsity.is_high_censored:
        return "between 0 and 100%"
    return f"between 0 and {format_percent(finding.sparsity.high)}"


def _describe_upper_end(finding: SiteFinding) -> str:
    if finding.sparsity.is_high_censored and is_everything(finding.sparsity.high):
        return "and possibly all of them"
    if finding.sparsity.is_high_censored:
        return "and possibly more than at the last measured point"
    return f"and less than {format_percent(finding.sparsity.high)}"


def _describe_estimate(finding: SiteFinding, comparison: str) -> str:
    estimate = finding.sparsity
    if estimate.value is None:
        return ""
    share = format_sparsity(estimate.value, estimate.is_lower_bound).replace("≥ ", "at least ")
    return f"The estimate is {share}{comparison}{_describe_first_crossing(finding)}."


def _describe_first_crossing(finding: SiteFinding) -> str:
    """Return where retention first falls below the threshold, so that a dip is not hidden. Empty without a dip."""
    if finding.first_crossing is None or finding.sparsity.value is None:
        return ""
    return f"; retention first falls below the threshold at {format_percent(finding.first_crossing)}"


def _drop_empty(*sentences: str) -> list[str]:
    return list(filter(None, sentences))
