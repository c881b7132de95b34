"""Typed records of the findings of a report: what its texts say, without their wording."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import filterfalse
from operator import attrgetter

from sparsedial.analysis.critical_findings import SiteFinding
from sparsedial.analysis.differences import CurveDifference


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

    @classmethod
    def from_results(cls, task: str, rule: str | None, layers: str, shows_rule: bool) -> Conditions:
        """Return the conditions of some results.

        Args:
            task: Display name of the task.
            rule: Name of the rule. None if the results are of several rules.
            layers: The sparsified layers as text, ``all`` if all are.
            shows_rule: True if the report has results of several rules.
        """
        return cls(task, rule if shows_rule else None, None if layers == "all" else layers)


@dataclass(frozen=True)
class SiteComparison:
    """A comparison of the sites of one model on one task.

    Attributes:
        model: Display name of the model.
        scope: The task, rule and layers.
        headline: The site that answers how many activations can be dropped: the best site if the estimate is the answer
            at every site, else the site with the highest lower end.
        best: The site with the highest estimate of critical sparsity.
        rivals: Names of the other sites whose critical sparsity could be as high, according to the 95% interval of the
            difference.
        untested: Number of other sites whose difference from the best site has no interval.
        lead: Difference of the best site from the next one. None if it has no interval.
        site_count: Number of sites that were measured.
        most_skippable: The site at which most multiply-accumulates can be skipped. None if no share is known, or if no
            point is shown to keep the score. If a site is outside of the FFNs, the site at which most weights can be
            skipped, because the multiply-accumulates of different modules cannot be compared.
        compares_weights: True if ``most_skippable`` was found by the share of all weights. Defaults to False.
        combined_weights: Share of all weights that can be skipped at the sites whose matrices differ, if their errors
            do not add up. None if there are less than two of them, or if a share is unknown. Defaults to None.
    """

    model: str
    scope: Conditions
    headline: SiteFinding
    best: SiteFinding
    rivals: tuple[str, ...]
    untested: int
    lead: CurveDifference | None
    site_count: int
    most_skippable: SiteFinding | None
    compares_weights: bool = False
    combined_weights: float | None = None


@dataclass(frozen=True)
class BestSiteCount:
    """The number of models for which one site has the highest critical sparsity.

    Attributes:
        site: Name of the site.
        models: Number of models for which the site has the highest critical sparsity.
        clear_models: Number of these models for which the 95% interval of the difference from every other site lies
            above 0.
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
class SiteDifference:
    """The difference of two models or rules at one site.

    Attributes:
        site: Name of the site.
        difference: The critical sparsity of the first one minus that of the second one.
    """

    site: str
    difference: CurveDifference


@dataclass(frozen=True)
class PairComparison:
    """Two models, or two rules, compared at each site on one task.

    Attributes:
        first: Name of the first model or rule.
        second: Name of the second one.
        sites: One difference per site.
    """

    first: str
    second: str
    sites: tuple[SiteDifference, ...]


@dataclass(frozen=True)
class PairGroup:
    """All pairs of models, or of rules, that are compared under the same conditions.

    Attributes:
        kind: ``model`` or ``rule``.
        scope: The task, the rule (for models) and the layers.
        model: Name of the model whose rules are compared. None for models.
        pairs: The pairs, in the order of the report.
    """

    kind: str
    scope: Conditions
    model: str | None
    pairs: tuple[PairComparison, ...]


@dataclass(frozen=True)
class Findings:
    """All findings of a report.

    Attributes:
        retain: Share of the dense score that has to be kept.
        models: One finding per model, rule, layers and task. If there is a task average, it replaces the tasks.
        best_sites: Sites with the highest critical sparsity, counted over several models.
        size_trends: Changes with model size.
        pairs: Differences between models and between rules.
    """

    retain: float
    models: tuple[SiteComparison, ...] = ()
    best_sites: tuple[BestSiteTally, ...] = ()
    size_trends: tuple[SizeTrendFinding, ...] = ()
    pairs: tuple[PairGroup, ...] = ()

    @property
    def decided(self) -> tuple[SiteComparison, ...]:
        """The findings in which some share of the activations is shown to be droppable."""
        return tuple(filterfalse(attrgetter("headline.is_undecided"), self.models))

    @property
    def undecided(self) -> tuple[SiteComparison, ...]:
        """The findings in which no measured point is shown to keep the score."""
        return tuple(filter(attrgetter("headline.is_undecided"), self.models))

    @property
    def are_estimates(self) -> bool:
        """True if the estimate is the answer in every finding."""
        return all(map(attrgetter("headline.is_estimate"), self.models))
