"""The table of critical sparsities as text, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsedial.analysis.critical_findings import SiteFinding
from sparsedial.report.droppable_share import (
    format_droppable_macs,
    format_droppable_p,
    format_droppable_share,
    format_droppable_weights,
    format_perplexity_share,
)
from sparsedial.report.formatting import format_number, format_parameters, sanitize_text
from sparsedial.report.row_interpretation import interpret_row

SITE = "Site"
SPARSITY = "Critical sparsity (95% CI)"
PERPLEXITY_SPARSITY = "By perplexity"
RULE_PARAMETER = "p"
SKIPPABLE_MACS = "Skippable MACs"
SKIPPABLE_WEIGHTS = "Of all weights"
INTERPRETATION = "Interpretation"

MODEL = "Model"
RULE = "Rule"
LAYERS = "Layers"
TASK = "Task"
DENSE_SCORE = "Dense score"
EXAMPLES = "Examples"
CONDITIONS = (MODEL, RULE, LAYERS, TASK, DENSE_SCORE, EXAMPLES)


@dataclass(frozen=True)
class CriticalRow:
    """One row of the table.

    Attributes:
        cells: The text of each column, in order.
        is_undecided: True if no point is shown to keep the score. The row is then marked.
    """

    cells: dict[str, str]
    is_undecided: bool


@dataclass(frozen=True)
class RowGroup:
    """Consecutive rows that were measured under the same conditions.

    Attributes:
        conditions: Name and text of the conditions that differ between groups. They are shown once, above the rows.
        rows: The rows.
    """

    conditions: dict[str, str]
    rows: tuple[CriticalRow, ...]


@dataclass(frozen=True)
class CriticalTable:
    """Critical sparsities as text without control characters. It still has to be escaped for HTML.

    Attributes:
        common: Name and text of the conditions that all rows share.
        groups: The rows, grouped by the conditions that they do not share.
    """

    common: dict[str, str]
    groups: tuple[RowGroup, ...]

    @property
    def columns(self) -> list[str]:
        """The names of the columns, which are the same in all rows. The table must have a row.

        `SKIPPABLE_WEIGHTS` is a column if the number of weights is known for any of the rows, and
        `PERPLEXITY_SPARSITY` if the results have both criteria.
        """
        return list(self.rows[0].cells)

    @property
    def rows(self) -> list[CriticalRow]:
        """The rows of all groups."""
        rows: list[CriticalRow] = []
        for group in self.groups:
            rows.extend(group.rows)
        return rows


def make_critical_table(findings: Sequence[SiteFinding], retain: float) -> CriticalTable:
    """Make the table of critical sparsities.

    Args:
        findings: The findings, one per row, in the order of the table.
        retain: Share of the dense score that has to be kept.

    Returns:
        The table. It has no groups if there are no findings.
    """
    conditions = list(map(_conditions, findings))
    common = dict(conditions[0]) if conditions else {}
    for other in conditions:
        common = {name: text for name, text in common.items() if other[name] == text}
    groups: list[RowGroup] = []
    has_weights = any(finding.skippable_weights.high is not None for finding in findings)
    for finding, condition in zip(findings, conditions, strict=True):
        differing = {name: text for name, text in condition.items() if name not in common}
        row = CriticalRow(_cells(finding, retain, has_weights), finding.is_undecided)
        if groups and groups[-1].conditions == differing:
            groups[-1] = RowGroup(differing, (*groups[-1].rows, row))
        else:
            groups.append(RowGroup(differing, (row,)))
    return CriticalTable(common, tuple(groups))


def _conditions(finding: SiteFinding) -> dict[str, str]:
    model = sanitize_text(finding.model)
    parameters = format_parameters(finding.parameters)
    if parameters:
        model = f"{model} ({parameters})"
    return {
        MODEL: model,
        RULE: sanitize_text(finding.rule),
        LAYERS: sanitize_text(finding.layers),
        TASK: sanitize_text(finding.task),
        DENSE_SCORE: f"{format_number(finding.dense_score)} {sanitize_text(finding.metric)}",
        EXAMPLES: format_number(finding.examples),
    }


def _cells(finding: SiteFinding, retain: float, has_weights: bool) -> dict[str, str]:
    perplexity = {}
    if finding.perplexity_sparsity is not None:
        perplexity[PERPLEXITY_SPARSITY] = format_perplexity_share(finding.perplexity_sparsity)
    cells = {
        SITE: sanitize_text(finding.site),
        SPARSITY: format_droppable_share(finding),
        **perplexity,
        RULE_PARAMETER: format_droppable_p(finding),
        SKIPPABLE_MACS: format_droppable_macs(finding),
    }
    if has_weights:
        cells[SKIPPABLE_WEIGHTS] = format_droppable_weights(finding)
    return {**cells, INTERPRETATION: interpret_row(finding, retain)}
