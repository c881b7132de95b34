"""Findings that the results support: the site with the highest critical sparsity, and the trend with model size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Any

import pandas as pd

from sparsedial.analysis.critical_findings import SiteFinding, read_site_findings
from sparsedial.analysis.differences import SITE, CurveDifference, find_differences
from sparsedial.analysis.estimates import Estimate, finite_number
from sparsedial.analysis.finding_records import (
    BestSiteCount,
    BestSiteTally,
    Conditions,
    Findings,
    SiteComparison,
    SizeTrendFinding,
    SlopeFinding,
)
from sparsedial.analysis.labels import is_average
from sparsedial.analysis.pair_findings import find_pairs
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows
from sparsedial.analysis.row_selection import drop_group_members, headline_rows, rows_with_any_number
from sparsedial.ffn.projection_input import OUTER_SITES

IS_ESTIMATE = attrgetter("is_estimate")
IS_MORE = attrgetter("is_more")


def compute_findings(results: Results) -> Findings:
    """Derive the findings from the results. Sites, rules and models are compared by the intervals of their differences.

    Best sites, size trends and pairs are omitted if there is only one `SiteComparison`.

    Args:
        results: The results of one or several studies.

    Returns:
        The findings in the order of the report. They are empty if no critical sparsity and no interval is known.
    """
    critical = rows_with_any_number(sort_rows(results.critical), "sparsity", "low")
    if critical.empty:
        return Findings(results.retain)
    differences = sort_rows(results.differences)  # with the same texts for layers and tasks
    models = _find_models(critical, differences)
    if len(models) == 1:
        return Findings(results.retain, models)
    return Findings(
        results.retain,
        models,
        best_sites=_find_best_sites(critical, differences),
        size_trends=_find_size_trends(results.trends),
        pairs=find_pairs(results),
    )


def _find_models(critical: pd.DataFrame, differences: pd.DataFrame) -> tuple[SiteComparison, ...]:
    shows_rule = critical["rule"].nunique() > 1
    findings = []
    for (model, rule, layers), rows in critical.groupby(["model", "rule", "layers"], sort=False):
        averages = rows[rows["task"].map(is_average)]
        if averages.empty:
            averages = drop_group_members(rows)
        for task, sites in averages.groupby("task", sort=False):
            scope = Conditions.from_results(str(task), str(rule), str(layers), shows_rule)
            findings.append(_compare_sites(str(model), scope, read_site_findings(sites), differences))
    return tuple(findings)


def _compare_sites(
    model: str, scope: Conditions, sites: Sequence[SiteFinding], differences: pd.DataFrame
) -> SiteComparison:
    best = _best_site(sites)
    others = [site for site in sites if site is not best]
    tested = _tested_differences(best, differences)
    compares_weights = not set(OUTER_SITES).isdisjoint(map(attrgetter("site"), sites))
    return SiteComparison(
        model=model,
        scope=scope,
        headline=_headline_site(sites),
        best=best,
        rivals=_rivals(others, tested),
        untested=len(others) - len(tested),
        lead=tested.get(_best_site(others).site) if others else None,
        site_count=len(sites),
        most_skippable=_most_skippable(sites, compares_weights),
        compares_weights=compares_weights,
        combined_weights=_combine_weights(sites),
    )


def _find_best_sites(critical: pd.DataFrame, differences: pd.DataFrame) -> tuple[BestSiteTally, ...]:
    shows_rule = critical["rule"].nunique() > 1
    findings = []
    for (rule, layers, task), rows in headline_rows(critical).groupby(["rule", "layers", "task"], sort=False):
        groups = [read_site_findings(sites) for _, sites in rows.groupby("model", sort=False) if len(sites) > 1]
        if len(groups) > 1:
            scope = Conditions.from_results(str(task), str(rule), str(layers), shows_rule)
            findings.append(BestSiteTally(scope, len(groups), _count_best_sites(groups, differences)))
    return tuple(findings)


def _count_best_sites(groups: Sequence[Sequence[SiteFinding]], differences: pd.DataFrame) -> tuple[BestSiteCount, ...]:
    models: dict[str, int] = {}
    clear_models: dict[str, int] = {}
    for sites in groups:
        best = _best_site(sites)
        models[best.site] = models.get(best.site, 0) + 1
        clear_models.setdefault(best.site, 0)
        tested = _tested_differences(best, differences).values()
        if len(tested) == len(sites) - 1 and all(map(IS_MORE, tested)):
            clear_models[best.site] += 1
    return tuple(BestSiteCount(site, count, clear_models[site]) for site, count in models.items())


def _find_size_trends(trends: pd.DataFrame) -> tuple[SizeTrendFinding, ...]:
    headline = sort_rows(headline_rows(trends, "family"))
    if headline.empty:
        return ()
    shows_rule = headline["rule"].nunique() > 1
    findings = []
    for (family, rule, layers, task), rows in headline.groupby(["family", "rule", "layers", "task"], sort=False):
        first = rows.iloc[0]
        findings.append(
            SizeTrendFinding(
                family=str(family),
                scope=Conditions.from_results(str(task), str(rule), str(layers), shows_rule),
                smallest=finite_number(first["smallest"]),
                largest=finite_number(first["largest"]),
                slopes=tuple(map(_read_slope, rows.to_dict("records"))),
                has_lower_bounds=any(map(finite_number, rows["censored"])),
            )
        )
    return tuple(findings)


def _read_slope(row: Mapping[Any, Any]) -> SlopeFinding:
    return SlopeFinding(
        site=str(row["site"]),
        slope=finite_number(row["slope"]),
        low=finite_number(row["low"]),
        high=finite_number(row["high"]),
        verdict=str(row["verdict"]),
    )


def _best_site(sites: Sequence[SiteFinding]) -> SiteFinding:
    return max(sites, key=lambda site: site.sparsity.rank)


def _headline_site(sites: Sequence[SiteFinding]) -> SiteFinding:
    """Return the best site if the estimate is the answer at every site, else the one with the highest lower end."""
    if all(map(IS_ESTIMATE, sites)):
        return _best_site(sites)
    return max(sites, key=lambda site: (site.sparsity.low or 0.0, site.sparsity.rank))


def _most_skippable(sites: Sequence[SiteFinding], compares_weights: bool) -> SiteFinding | None:
    """Return the site with the largest saving: by estimates if they are the answer at every site, else by lower ends.

    Returns None if no share is known, or if no point is shown to keep the score.
    """
    savings = [(_saving(site, compares_weights), site) for site in sites]
    if all(map(IS_ESTIMATE, sites)):
        saving, most = max(savings, key=lambda pair: pair[0].rank)
        share = saving.value
    else:
        saving, most = max(savings, key=lambda pair: pair[0].low or 0.0)
        share = saving.low or None
    if share is None:
        return None
    return most


def _saving(site: SiteFinding, compares_weights: bool) -> Estimate:
    return site.skippable_weights if compares_weights else site.skippable_macs


def _combine_weights(sites: Sequence[SiteFinding]) -> float | None:
    """Return the share of all weights that the sites with different matrices save together, by what answers at each."""
    shares = []
    for site in sites:
        if site.site != "all_inputs" and site.site not in OUTER_SITES:
            continue
        share = site.skippable_weights.low
        if IS_ESTIMATE(site):
            share = site.skippable_weights.value
        if share is None:
            return None
        shares.append(share)
    if len(shares) < 2:
        return None
    return sum(shares)


def _tested_differences(site: SiteFinding, differences: pd.DataFrame) -> dict[str, CurveDifference]:
    return find_differences(differences, SITE, asdict(site))


def _rivals(others: Sequence[SiteFinding], tested: Mapping[str, CurveDifference]) -> tuple[str, ...]:
    """Return the sites whose difference from the best site may be 0 or less."""
    rivals = []
    for site in others:
        if site.site in tested and not tested[site.site].is_more:
            rivals.append(site.site)
    return tuple(rivals)
