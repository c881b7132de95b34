"""Findings that the results support: the site with the highest critical sparsity, and the trend with model size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from sparsedial.analysis.critical_findings import SiteFinding, read_site_findings
from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.labels import is_average
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows
from sparsedial.analysis.row_selection import drop_group_members, headline_rows, rows_with_any_number
from sparsedial.analysis.site_differences import SiteDifference, find_differences


@dataclass(frozen=True)
class Conditions:
    """The conditions that a statement holds for.

    Attributes:
        task: Display name of the task or of the task average.
        rule: Name of the rule. None if all results are of the same rule.
        layers: The sparsified layers as text. None if all layers are sparsified.
    """

    task: str
    rule: str | None = None
    layers: str | None = None


@dataclass(frozen=True)
class SiteComparison:
    """A comparison of the sites of one model on one task.

    Attributes:
        model: Display name of the model.
        scope: The task, rule and layers.
        best: The site with the highest critical sparsity.
        rivals: Names of the other sites whose critical sparsity could be as high, according to the 95% interval of the
            difference or, if it is not known, to those of the two sites.
        lead: Difference of the best site from the next one. None if it has no interval.
        site_count: Number of sites that were measured.
        most_skippable: The site at which most multiply-accumulates can be skipped. None if no share is known.
    """

    model: str
    scope: Conditions
    best: SiteFinding
    rivals: tuple[str, ...]
    lead: SiteDifference | None
    site_count: int
    most_skippable: SiteFinding | None


@dataclass(frozen=True)
class BestSiteCount:
    """The number of models for which one site has the highest critical sparsity.

    Attributes:
        site: Name of the site.
        models: Number of models for which the site has the highest critical sparsity.
        clear_models: Number of these models for which no other site could be as high, within the 95% intervals.
    """

    site: str
    models: int
    clear_models: int


@dataclass(frozen=True)
class BestSiteTally:
    """The sites with the highest critical sparsity, counted over several models.

    Attributes:
        scope: The task, rule and layers.
        model_count: Number of models that were measured at more than one site.
        counts: One entry for each site that has the highest critical sparsity for at least one model.
    """

    scope: Conditions
    model_count: int
    counts: tuple[BestSiteCount, ...]


@dataclass(frozen=True)
class SlopeFinding:
    """The change of critical sparsity with model size at one site.

    Attributes:
        site: Name of the site.
        slope: Change of critical sparsity for ten times the parameters, a fraction.
        low: Lower end of its 95% interval. None if there is no interval.
        high: Upper end of its 95% interval. None if there is no interval.
        verdict: One of the verdicts of `SizeTrend`: more, less or unclear.
    """

    site: str
    slope: float | None
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True)
class SizeTrendFinding:
    """The change of critical sparsity with the size of the models of one family.

    Attributes:
        family: Name of the family.
        scope: The task, rule and layers.
        smallest: Number of parameters of the smallest model.
        largest: Number of parameters of the largest model.
        slopes: One entry per site.
        has_lower_bounds: True if a critical sparsity, or the upper end of an interval, is only a lower bound.
    """

    family: str
    scope: Conditions
    smallest: float | None
    largest: float | None
    slopes: tuple[SlopeFinding, ...]
    has_lower_bounds: bool


@dataclass(frozen=True)
class ModelOrigin:
    """The name and the origin of a measured model.

    Attributes:
        name: Display name of the model.
        origin: Description of its files, such as ``hub Qwen/Qwen2.5-0.5B``. Empty if it is not known.
    """

    name: str
    origin: str


@dataclass(frozen=True)
class Findings:
    """All findings of a report.

    Attributes:
        retain: Share of the dense score that has to be kept.
        models: One finding per model, rule, layers and task. If there is a task average, it replaces the tasks.
        best_sites: Sites with the highest critical sparsity, counted over several models.
        size_trends: Changes with model size.
    """

    retain: float
    models: tuple[SiteComparison, ...] = ()
    best_sites: tuple[BestSiteTally, ...] = ()
    size_trends: tuple[SizeTrendFinding, ...] = ()

    @property
    def lowest(self) -> SiteComparison:
        """The finding with the lowest critical sparsity at its best site."""
        return min(self.models, key=_best_sparsity)

    @property
    def highest(self) -> SiteComparison:
        """The finding with the highest critical sparsity at its best site."""
        return max(self.models, key=_best_sparsity)


def compute_findings(results: Results) -> Findings:
    """Derive the findings from the results. Sites are compared with regard to their 95% intervals.

    Best sites and size trends are omitted if there is only one `SiteComparison`.

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
    return Findings(results.retain, models, _find_best_sites(critical, differences), _find_size_trends(results.trends))


def find_origins(provenance: Mapping[str, Any]) -> tuple[ModelOrigin, ...]:
    """Return the origin of each model.

    Args:
        provenance: ``Results.provenance``. Its entry ``models`` maps the name of each model to its label.

    Returns:
        One entry per model. Empty if the provenance has no models.
    """
    models = provenance.get("models")
    if not isinstance(models, Mapping):
        return ()
    return tuple(ModelOrigin(str(name), str(label.get("origin") or "")) for name, label in models.items())


def _find_models(critical: pd.DataFrame, differences: pd.DataFrame) -> tuple[SiteComparison, ...]:
    shows_rule = critical["rule"].nunique() > 1
    findings = []
    for (model, rule, layers), rows in critical.groupby(["model", "rule", "layers"], sort=False):
        averages = rows[rows["task"].map(is_average)]
        if averages.empty:
            averages = drop_group_members(rows)
        for task, sites in averages.groupby("task", sort=False):
            scope = _scope(str(task), str(rule), str(layers), shows_rule)
            findings.append(_compare_sites(str(model), scope, read_site_findings(sites), differences))
    return tuple(findings)


def _compare_sites(
    model: str, scope: Conditions, sites: Sequence[SiteFinding], differences: pd.DataFrame
) -> SiteComparison:
    best = _best_site(sites)
    others = [site for site in sites if site is not best]
    tested = _tested_differences(best, differences)
    most_skippable = max(sites, key=_skippable_macs)
    return SiteComparison(
        model=model,
        scope=scope,
        best=best,
        rivals=_rivals(best, sites, tested),
        lead=tested.get(_best_site(others).site) if others else None,
        site_count=len(sites),
        most_skippable=None if most_skippable.skippable_macs.value is None else most_skippable,
    )


def _find_best_sites(critical: pd.DataFrame, differences: pd.DataFrame) -> tuple[BestSiteTally, ...]:
    shows_rule = critical["rule"].nunique() > 1
    findings = []
    for (rule, layers, task), rows in headline_rows(critical).groupby(["rule", "layers", "task"], sort=False):
        groups = [read_site_findings(sites) for _, sites in rows.groupby("model", sort=False) if len(sites) > 1]
        if len(groups) > 1:
            scope = _scope(str(task), str(rule), str(layers), shows_rule)
            findings.append(BestSiteTally(scope, len(groups), _count_best_sites(groups, differences)))
    return tuple(findings)


def _count_best_sites(groups: Sequence[Sequence[SiteFinding]], differences: pd.DataFrame) -> tuple[BestSiteCount, ...]:
    models: dict[str, int] = {}
    clear_models: dict[str, int] = {}
    for sites in groups:
        best = _best_site(sites)
        models[best.site] = models.get(best.site, 0) + 1
        clear_models.setdefault(best.site, 0)
        if not _rivals(best, sites, _tested_differences(best, differences)):
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
                scope=_scope(str(task), str(rule), str(layers), shows_rule),
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


def _scope(task: str, rule: str, layers: str, shows_rule: bool) -> Conditions:
    return Conditions(task, rule if shows_rule else None, None if layers == "all" else layers)


def _best_site(sites: Sequence[SiteFinding]) -> SiteFinding:
    return max(sites, key=lambda site: site.sparsity.rank)


def _best_sparsity(finding: SiteComparison) -> float:
    return finding.best.sparsity.rank


def _skippable_macs(site: SiteFinding) -> float:
    return site.skippable_macs.rank


def _tested_differences(site: SiteFinding, differences: pd.DataFrame) -> dict[str, SiteDifference]:
    return find_differences(differences, asdict(site))


def _rivals(best: SiteFinding, sites: Sequence[SiteFinding], tested: Mapping[str, SiteDifference]) -> tuple[str, ...]:
    rivals = []
    for site in sites:
        if site is best:
            continue
        difference = tested.get(site.site)
        can_reach = site.sparsity.can_reach(best.sparsity) if difference is None else not difference.is_more
        if can_reach:
            rivals.append(site.site)
    return tuple(rivals)
