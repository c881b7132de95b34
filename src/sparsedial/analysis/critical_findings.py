"""Typed records of the rows of the table of critical sparsities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sparsedial.analysis.estimates import (
    DEFAULT_PRECISION,
    ESTIMATE,
    UNDECIDED,
    Estimate,
    choose_answer,
    finite_number,
    is_everything,
    is_true,
    read_estimate,
)
from sparsedial.analysis.row_order import sort_rows
from sparsedial.analysis.row_selection import headline_rows
from sparsedial.curves.critical import CROSSED


@dataclass(frozen=True)
class SiteFinding:
    """The critical sparsity of one model at one site on one task.

    Attributes:
        model: Display name of the model.
        parameters: Number of parameters. None if it is not known.
        rule: Name of the rule.
        layers: The sparsified layers as text, such as ``0–2, 7`` or ``all``.
        task: Display name of the task or of the task average.
        metric: Name of the metric that the task is scored with.
        site: Name of the site.
        status: One of the statuses of `CriticalSparsity` (crossed, right-censored or left-censored), `AT_CHANCE` or
            `TOO_FEW_EXAMPLES`.
        sparsity: The critical sparsity.
        skippable_macs: Share of the FFN's multiply-accumulates that can be skipped at the critical sparsity.
        skippable_weights: Share of all weights that the model reads per token that can be skipped at the critical
            sparsity. Without a value if it is unknown.
        first_crossing: Lowest sparsity at which retention falls below the threshold. None if it equals the critical
            sparsity to 0.1 percentage points.
        p: Rule parameter at the critical sparsity. None if it is not known.
        p_low: Rule parameter of the measured point at the lower end of the interval. None if there is none.
        dense_score: Score of the dense model. None if it is not known.
        chance: Expected score of random choices. None if it is not known.
        examples: Number of examples that were scored. None if it is not known.
        precision: Half width, as a fraction of sparsity, that the interval should have: the precision that the study
            requests, or `DEFAULT_PRECISION`.
        is_wide: True if the interval is wider than ``precision`` on both sides, or may be, because its upper end is a
            lower bound.
        is_average: True if the score is a mean over several tasks.
        additional_examples: Number of further examples that would narrow the interval to ``precision``. A lower bound
            if the upper end of the interval is one. None if no further examples are needed, or if the number is not
            known.
        needs_points: True if points at further values of p would narrow the interval.
        is_last_sparsest: True if the rule has no value that is sparser than the last measured point.
        perplexity_sparsity: The critical sparsity by the perplexity criterion. None unless the table has both criteria.
    """

    model: str
    parameters: float | None
    rule: str
    layers: str
    task: str
    metric: str
    site: str
    status: str
    sparsity: Estimate
    skippable_macs: Estimate
    skippable_weights: Estimate
    first_crossing: float | None
    p: float | None
    p_low: float | None
    dense_score: float | None
    chance: float | None
    examples: float | None
    precision: float
    is_wide: bool
    is_average: bool
    additional_examples: int | None
    needs_points: bool
    is_last_sparsest: bool
    perplexity_sparsity: Estimate | None = None

    @property
    def answer(self) -> str:
        """The number that answers how many activations can be dropped (`choose_answer`)."""
        return choose_answer(self.sparsity, self.is_wide)

    @property
    def is_estimate(self) -> bool:
        """True if the estimate is the answer."""
        return self.answer == ESTIMATE

    @property
    def is_undecided(self) -> bool:
        """True if the data do not decide, because no measured point is shown to keep the score."""
        return self.answer == UNDECIDED


@dataclass(frozen=True)
class SplitFindings:
    """The rows of the table of critical sparsities, divided into those to show first and the others.

    Attributes:
        headline: The rows to show first. For a single model these are all rows.
        others: The other rows, which are single tasks. Empty for a single model.
    """

    headline: tuple[SiteFinding, ...]
    others: tuple[SiteFinding, ...]


def read_critical_findings(critical: pd.DataFrame) -> SplitFindings:
    """Read the critical sparsities and decide which of them a reader should see first.

    Args:
        critical: Table ``Results.critical``.

    Returns:
        The findings in the order of the report.
    """
    if critical.empty:
        return SplitFindings((), ())
    if critical["model"].nunique() == 1:
        return SplitFindings(read_site_findings(sort_rows(critical)), ())
    headline = headline_rows(critical)
    others = critical.drop(headline.index)
    return SplitFindings(read_site_findings(sort_rows(headline)), read_site_findings(sort_rows(others)))


def read_site_findings(sorted_rows: pd.DataFrame) -> tuple[SiteFinding, ...]:
    """Read one finding from each row.

    Args:
        sorted_rows: Rows of ``Results.critical`` as `sort_rows` returns them.

    Returns:
        The findings, in the same order.
    """
    return tuple(map(_read_site_finding, sorted_rows.to_dict("records")))


def _read_weights(row: Mapping[Any, Any]) -> Estimate:
    names = ("skippable_weights", "skippable_weights_low", "skippable_weights_high")
    return read_estimate({**dict.fromkeys(names), **row}, *names)


def _read_perplexity(row: Mapping[Any, Any]) -> Estimate | None:
    if "perplexity_sparsity" not in row:
        return None
    columns = {**row, "status": row["perplexity_status"], "high_censored": row["perplexity_high_censored"]}
    return read_estimate(columns, "perplexity_sparsity", "perplexity_low", "perplexity_high")


def _read_site_finding(row: Mapping[Any, Any]) -> SiteFinding:
    metric = str(row["metric"])
    examples = finite_number(row["examples"])
    sparsity = read_estimate(row, "sparsity", "low", "high")
    status = str(row["status"])
    if is_everything(sparsity.low):  # there is no more, so nothing is a lower bound
        row = {**row, "status": CROSSED, "high_censored": False, "is_wide": False}
        sparsity = read_estimate(row, "sparsity", "low", "high")
    return SiteFinding(
        model=str(row["model"]),
        parameters=finite_number(row["parameters"]),
        rule=str(row["rule"]),
        layers=str(row["layers"]),
        task=str(row["task"]),
        metric=metric,
        site=str(row["site"]),
        status=status,
        sparsity=sparsity,
        skippable_macs=read_estimate(row, "skippable_macs", "skippable_macs_low", "skippable_macs_high"),
        skippable_weights=_read_weights(row),
        first_crossing=_earlier_crossing(finite_number(row["first_crossing"]), sparsity.value),
        p=finite_number(row["p"]),
        p_low=finite_number(row.get("p_low")),
        dense_score=finite_number(row["dense_score"]),
        chance=finite_number(row.get("chance")),
        examples=examples,
        precision=finite_number(row.get("precision")) or DEFAULT_PRECISION,
        is_wide=is_true(row["is_wide"]),
        is_average=metric.startswith("mean of "),
        additional_examples=_additional_examples(finite_number(row["examples_needed"]), examples),
        needs_points=is_true(row.get("needs_points")),
        is_last_sparsest=is_true(row.get("is_last_sparsest")),
        perplexity_sparsity=_read_perplexity(row),
    )


def _earlier_crossing(first_crossing: float | None, sparsity: float | None) -> float | None:
    """Return the first crossing. None if it equals the critical sparsity to 0.1 percentage points."""
    if first_crossing is None:
        return None
    if sparsity is not None and round(100 * first_crossing, 1) == round(100 * sparsity, 1):
        return None
    return first_crossing


def _additional_examples(needed: float | None, examples: float | None) -> int | None:
    if needed is None:
        return None
    additional = needed - (examples or 0)
    return int(additional) if additional > 0 else None
