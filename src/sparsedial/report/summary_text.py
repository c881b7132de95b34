"""The findings of a report in English."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from sparsedial.analysis.critical_findings import SiteFinding
from sparsedial.analysis.differences import CurveDifference
from sparsedial.analysis.estimates import AT_CHANCE, AT_LEAST, TOO_FEW_EXAMPLES, Estimate
from sparsedial.analysis.finding_records import (
    BestSiteCount,
    BestSiteTally,
    Findings,
    SiteComparison,
    SizeTrendFinding,
    SlopeFinding,
)
from sparsedial.analysis.findings import compute_findings
from sparsedial.analysis.results import Results
from sparsedial.curves.difference import LESS, MORE, UNCLEAR
from sparsedial.report.droppable_share import CONFIDENCE, describe_droppable_share
from sparsedial.report.formatting import (
    format_estimate,
    format_list,
    format_number,
    format_parameters,
    format_percent,
    format_point_interval,
    format_points,
    format_sparsity,
    sanitize_text,
)
from sparsedial.report.pair_text import describe_pairs
from sparsedial.report.remedies import describe_remedies
from sparsedial.report.scope_text import describe_scope
from sparsedial.study.requirement_text import describe_condition

MAX_NAMED_FINDINGS = 3
"""Number of models and tasks up to which those that are not decided are listed by name."""

VERDICTS = {
    MORE: "larger models tolerate more sparsity at",
    LESS: "larger models tolerate less sparsity at",
    UNCLEAR: "there is no clear trend at",
}


@dataclass(frozen=True)
class ModelSummary:
    """The answer for one model, rule and task, in sentences.

    Attributes:
        answer: One sentence: how many activations can be dropped, or that the data do not decide and what would.
        details: Further sentences, about the estimate and the other sites. May be empty.
    """

    answer: str
    details: str


def summarize_models(results: Results) -> list[ModelSummary]:
    """Summarize the results of each model, rule and task.

    Args:
        results: The results of one or several studies.

    Returns:
        One entry per model, rule and task. Task averages replace the tasks. Empty if no curve has valid trials.
    """
    findings = compute_findings(results)
    condition = _describe_condition(findings)
    summaries = []
    for finding in findings.models:
        answer, *details = _describe_answer(finding, condition)
        summaries.append(ModelSummary(answer, " ".join([*details, *_describe_sites(finding)])))
    return summaries


def summarize_comparisons(results: Results) -> list[str]:
    """Summarize the comparison of models, rules and tasks.

    Args:
        results: The results of one or several studies.

    Returns:
        The range of the answers first. Empty for a single model, rule and task.
    """
    findings = compute_findings(results)
    if len(findings.models) < 2:
        return []
    return _describe_comparisons(findings, _describe_condition(findings))


def summarize(results: Results) -> list[str]:
    """Summarize the results in sentences.

    Args:
        results: The results of one or several studies.

    Returns:
        At least one text. The first text is the main result. Names contain no control characters, but are not
        escaped for HTML.
    """
    findings = compute_findings(results)
    if not findings.models:
        return [describe_missing(results)]
    condition = _describe_condition(findings)
    if len(findings.models) == 1:
        return [_describe_model(findings.models[0], condition)]
    return [*_describe_comparisons(findings, condition), *map(_describe_model, findings.models)]


def summarize_in_one_line(results: Results) -> str:
    """Return the main result alone, for the terminal.

    Args:
        results: The results of one or several studies.

    Returns:
        The start of the first text of `summarize`.
    """
    findings = compute_findings(results)
    if not findings.models:
        return describe_missing(results)
    condition = _describe_condition(findings)
    if len(findings.models) == 1:
        return " ".join(_describe_answer(findings.models[0], condition))
    return _describe_range(findings, condition)


def describe_missing(results: Results) -> str:
    """Explain why there is no critical sparsity at all.

    Args:
        results: Results without a critical sparsity.

    Returns:
        One sentence, or two if the tasks have different reasons.
    """
    statuses = set() if results.critical.empty else set(results.critical["status"])
    sentences = []
    if TOO_FEW_EXAMPLES in statuses:
        examples = results.critical.loc[results.critical["status"] == TOO_FEW_EXAMPLES, "examples"].max()
        sentences.append(
            "There is no critical sparsity, because at least two examples of each task are needed, and "
            f"{format_number(examples)} {'was' if examples == 1 else 'were'} scored."
        )
    if AT_CHANCE in statuses:
        sentences.append(
            "There is no critical sparsity, because no dense score can be told from chance: nothing can be retained."
        )
    return " ".join(sentences) or "No critical sparsity could be computed, because no curve has valid trials."


def _describe_comparisons(findings: Findings, condition: str) -> list[str]:
    return [
        _describe_range(findings, condition),
        *map(_describe_best_sites, findings.best_sites),
        *map(_describe_size_trend, findings.size_trends),
        *map(describe_pairs, findings.pairs),
    ]


def _describe_condition(findings: Findings) -> str:
    return f" while {describe_condition(findings.retain)}"


def _describe_range(findings: Findings, condition: str) -> str:
    """Return the range of the answers over several models, rules or tasks."""
    if findings.are_estimates:
        lowest, highest = _find_range(findings.models, _best_estimate)
        return f"Between {lowest} and {highest} of the activations at the best site can be dropped{condition}."
    undecided = list(map(attrgetter("headline"), findings.undecided))
    reason = f"no measured point is shown to meet this condition. {describe_remedies(undecided)}".strip()
    if not findings.decided:
        return f"The data do not decide how many activations can be dropped{condition}: {reason}"
    lowest, highest = _find_range(findings.decided, _lower_end)
    shares = f"{_join_ends(lowest, highest)} of the activations at the best site"
    text = f"At least {shares} can be dropped{condition} ({CONFIDENCE} confidence)."
    estimates = [finding for finding in findings.decided if finding.best.sparsity.value is not None]
    if estimates:
        lowest, highest = _find_range(estimates, _best_estimate)
        text += f" The highest estimate of a site is {_join_ends(lowest, highest)}."
    if undecided:
        text += f" The data do not decide for {_name_findings(findings.undecided)}: {reason}"
    return text


def _find_range(findings: Sequence[SiteComparison], get_share: Callable[[SiteComparison], Estimate]) -> tuple[str, str]:
    """Return the lowest and the highest share as text, with their models and conditions."""
    ends = []
    for select in (min, max):
        finding = select(findings, key=lambda finding: get_share(finding).rank)
        ends.append(f"{_format_value(get_share(finding))} ({_name_finding(finding)})")
    return ends[0], ends[1]


def _join_ends(lowest: str, highest: str) -> str:
    if lowest == highest:
        return lowest
    return f"{lowest} to {highest}"


def _best_estimate(finding: SiteComparison) -> Estimate:
    return finding.best.sparsity


def _lower_end(finding: SiteComparison) -> Estimate:
    """Return the share that is shown to be droppable, or the estimate if there is no interval."""
    sparsity = finding.headline.sparsity
    if sparsity.low is None:
        return sparsity
    return Estimate(sparsity.low)


def _name_finding(finding: SiteComparison) -> str:
    return f"{sanitize_text(finding.model)} {describe_scope(finding.scope)}"


def _name_findings(findings: Sequence[SiteComparison]) -> str:
    if len(findings) > MAX_NAMED_FINDINGS:
        return f"{len(findings)} others"
    return format_list(list(map(_name_finding, findings)))


def _describe_model(finding: SiteComparison, condition: str = "") -> str:
    return " ".join([*_describe_answer(finding, condition), *_describe_sites(finding)])


def _describe_answer(finding: SiteComparison, condition: str = "") -> list[str]:
    """Return the answer, and sentences about its estimate."""
    comparison = ""
    if finding.site_count > 1 and finding.headline is finding.best:
        comparison = f", the most of the {finding.site_count} sites"
    answer, *details = describe_droppable_share(finding.headline, condition, comparison, finding.site_count)
    return [f"{_name_finding(finding)}: {answer}", *details]


def _describe_sites(finding: SiteComparison) -> list[str]:
    """Return sentences that compare the sites of one model. Empty if no share of the activations can be relied on."""
    if finding.headline.is_undecided:
        return []
    sentences = []
    best = finding.best
    if finding.headline is not best:
        sentences.append(
            f"The highest estimate is {_format_in_sentence(best.sparsity)}, at {sanitize_text(best.site)}."
        )
    if finding.lead is not None and finding.lead.value is not None:
        sentences.append(_describe_lead(finding.lead))
    if finding.rivals:
        rivals = format_list(list(map(sanitize_text, finding.rivals)))
        sentences.append(
            f"Within the 95% intervals of the differences, the critical sparsity of {rivals} could be as high."
        )
    if finding.most_skippable is not None:
        saving = _describe_weights if finding.compares_weights else _describe_saving
        sentences.append(saving(finding.most_skippable, finding.site_count))
    if finding.combined_weights:
        sentences.append(
            f"The sites whose matrices differ add up to {format_percent(finding.combined_weights)} of all weights, if "
            "their errors do not add up, which was not measured."
        )
    return sentences


def _describe_lead(lead: CurveDifference) -> str:
    return (
        f"The difference from {sanitize_text(lead.other)}, the next site, is {format_points(lead.value)} percentage "
        f"points (95% interval {format_point_interval(lead.low, lead.high)})."
    )


def _describe_saving(finding: SiteFinding, site_count: int) -> str:
    share = _format_in_sentence(finding.skippable_macs)
    if finding.answer == AT_LEAST:
        share = f"at least {format_percent(finding.skippable_macs.low)}"
    saving = f"can skip {share} of the FFN's multiply-accumulates (MACs)"
    if site_count == 1:
        return f"A runtime {saving}."
    return f"The largest saving is at {sanitize_text(finding.site)}: a runtime {saving}."


def _describe_weights(finding: SiteFinding, site_count: int) -> str:
    share = _format_in_sentence(finding.skippable_weights)
    if finding.answer == AT_LEAST:
        share = f"at least {format_percent(finding.skippable_weights.low)}"
    saving = f"can skip {share} of all weights that the model reads per token"
    if site_count == 1:
        return f"A runtime {saving}."
    return f"The largest saving is at {sanitize_text(finding.site)}: a runtime {saving}."


def _describe_best_sites(finding: BestSiteTally) -> str:
    counts = format_list(list(map(_describe_site_count, finding.counts)))
    scope = describe_scope(finding.scope)
    return f"Of {finding.model_count} models {scope}, the highest critical sparsity is at {counts}."


def _describe_site_count(count: BestSiteCount) -> str:
    clear = f"{count.clear_models} of them beyond the 95% intervals of the differences"
    return f"{sanitize_text(count.site)} in {count.models} ({clear})"


def _describe_size_trend(finding: SizeTrendFinding) -> str:
    sizes = f"{format_parameters(finding.smallest)} to {format_parameters(finding.largest)} parameters"
    parts = []
    for verdict, words in VERDICTS.items():
        slopes = [_describe_slope(slope) for slope in finding.slopes if slope.verdict == verdict]
        if slopes:
            parts.append(f"{words} {format_list(slopes)}")
    text = f"Family {sanitize_text(finding.family)} ({sizes}) {describe_scope(finding.scope)}: {'; '.join(parts)}."
    text += " Slopes are in percentage points for ten times the parameters, with 95% intervals."
    if finding.has_lower_bounds:
        text += " Some of these critical sparsities, or the upper ends of their intervals, are lower bounds."
    return text


def _describe_slope(slope: SlopeFinding) -> str:
    interval = "no interval"
    if slope.low is not None and slope.high is not None:
        interval = format_point_interval(slope.low, slope.high)
    return f"{sanitize_text(slope.site)} ({format_points(slope.slope)}, {interval})"


def _format_value(estimate: Estimate) -> str:
    return format_sparsity(estimate.value, estimate.is_lower_bound).replace("≥ ", "at least ")


def _format_in_sentence(estimate: Estimate) -> str:
    return format_estimate(estimate).replace("≥ ", "at least ")
