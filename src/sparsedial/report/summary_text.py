"""The findings of a report in English."""

from __future__ import annotations

from sparsedial.analysis.critical_findings import SiteFinding
from sparsedial.analysis.estimates import AT_CHANCE, Estimate
from sparsedial.analysis.findings import (
    BestSiteCount,
    BestSiteTally,
    Conditions,
    Findings,
    SiteComparison,
    SizeTrendFinding,
    SlopeFinding,
    compute_findings,
)
from sparsedial.analysis.labels import AVERAGE, is_average
from sparsedial.analysis.results import Results
from sparsedial.analysis.site_differences import SiteDifference
from sparsedial.curves.difference import LESS, MORE, UNCLEAR
from sparsedial.report.droppable_share import describe_droppable_share
from sparsedial.report.formatting import (
    format_estimate,
    format_interval,
    format_list,
    format_parameters,
    format_points,
    format_retain,
    format_sparsity,
    sanitize_text,
)

VERDICTS = {
    MORE: "larger models tolerate more sparsity at",
    LESS: "larger models tolerate less sparsity at",
    UNCLEAR: "there is no clear trend at",
}


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
    condition = f" while at least {format_retain(results.retain)} of the dense score is kept"
    if len(findings.models) == 1:
        return [_describe_model(findings.models[0], condition)]
    return [
        _describe_range(findings, condition),
        *map(_describe_best_sites, findings.best_sites),
        *map(_describe_size_trend, findings.size_trends),
        *map(_describe_model, findings.models),
    ]


def describe_missing(results: Results) -> str:
    """Explain why there is no critical sparsity at all.

    Args:
        results: Results without a critical sparsity.

    Returns:
        One sentence.
    """
    if not results.critical.empty and (results.critical["status"] == AT_CHANCE).all():
        return "There is no critical sparsity, because no dense score can be told from chance: nothing can be retained."
    return "No critical sparsity could be computed, because no curve has valid trials."


def _describe_range(findings: Findings, condition: str) -> str:
    lowest = _describe_end(findings.lowest)
    highest = _describe_end(findings.highest)
    return f"Between {lowest} and {highest} of the activations at the best site can be dropped{condition}."


def _describe_end(finding: SiteComparison) -> str:
    sparsity = finding.best.sparsity
    share = _format_value(sparsity)
    if sparsity.value is None:
        share = format_interval(sparsity.low, sparsity.high, sparsity.is_high_censored)
    return f"{share} ({sanitize_text(finding.model)} {_describe_scope(finding.scope)})"


def _describe_model(finding: SiteComparison, condition: str = "") -> str:
    best = finding.best
    comparison = f", the most of the {finding.site_count} sites" if finding.site_count > 1 else ""
    sentences = [describe_droppable_share(best, condition, comparison)]
    if finding.lead is not None and finding.lead.value is not None:
        sentences.append(_describe_lead(finding.lead))
    if finding.rivals:
        rivals = format_list(list(map(sanitize_text, finding.rivals)))
        sentences.append(f"Within the 95% intervals, the critical sparsity of {rivals} could be as high.")
    if finding.most_skippable is not None:
        sentences.append(_describe_saving(finding.most_skippable, finding.site_count))
    return f"{sanitize_text(finding.model)} {_describe_scope(finding.scope)}: {' '.join(sentences)}"


def _describe_lead(lead: SiteDifference) -> str:
    interval = f"{format_points(lead.low)} to {format_points(lead.high)}"
    return (
        f"The difference from {sanitize_text(lead.other)}, the next site, is {format_points(lead.value)} percentage "
        f"points (95% interval {interval})."
    )


def _describe_saving(finding: SiteFinding, site_count: int) -> str:
    share = _format_in_sentence(finding.skippable_macs)
    saving = f"can skip {share} of the FFN's multiply-accumulates (MACs)"
    if site_count == 1:
        return f"A runtime {saving}."
    return f"The largest saving is at {sanitize_text(finding.site)}: a runtime {saving}."


def _describe_best_sites(finding: BestSiteTally) -> str:
    counts = format_list(list(map(_describe_site_count, finding.counts)))
    scope = _describe_scope(finding.scope)
    return f"Of {finding.model_count} models {scope}, the highest critical sparsity is at {counts}."


def _describe_site_count(count: BestSiteCount) -> str:
    return f"{sanitize_text(count.site)} in {count.models} ({count.clear_models} of them beyond the 95% intervals)"


def _describe_size_trend(finding: SizeTrendFinding) -> str:
    sizes = f"{format_parameters(finding.smallest)} to {format_parameters(finding.largest)} parameters"
    parts = []
    for verdict, words in VERDICTS.items():
        slopes = [_describe_slope(slope) for slope in finding.slopes if slope.verdict == verdict]
        if slopes:
            parts.append(f"{words} {format_list(slopes)}")
    text = f"Family {sanitize_text(finding.family)} ({sizes}) {_describe_scope(finding.scope)}: {'; '.join(parts)}."
    text += " Slopes are in percentage points for ten times the parameters, with 95% intervals."
    if finding.has_lower_bounds:
        text += " Some of these critical sparsities, or the upper ends of their intervals, are lower bounds."
    return text


def _describe_slope(slope: SlopeFinding) -> str:
    interval = "no interval"
    if slope.low is not None and slope.high is not None:
        interval = f"{format_points(slope.low)} to {format_points(slope.high)}"
    return f"{sanitize_text(slope.site)} ({format_points(slope.slope)}, {interval})"


def _describe_scope(scope: Conditions) -> str:
    task = sanitize_text(scope.task)
    text = f"on {task}"
    if scope.task == AVERAGE:
        text = "on average over the tasks"
    elif is_average(scope.task):
        text = f"on the {task}"
    if scope.rule is not None:
        text += f" under {sanitize_text(scope.rule)}"
    if scope.layers is not None:
        text += f" in layers {sanitize_text(scope.layers)}"
    return text


def _format_value(estimate: Estimate) -> str:
    return format_sparsity(estimate.value, estimate.is_lower_bound).replace("≥ ", "at least ")


def _format_in_sentence(estimate: Estimate) -> str:
    return format_estimate(estimate).replace("≥ ", "at least ")
