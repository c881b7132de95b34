"""The table of critical sparsities for the terminal. It fits into 60 columns, and is wrapped in fewer."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from sparsedial.analysis.critical_findings import SiteFinding, SplitFindings, read_critical_findings
from sparsedial.analysis.results import Results
from sparsedial.report.critical_table import (
    INTERPRETATION,
    MODEL,
    PERPLEXITY_SPARSITY,
    SITE,
    SKIPPABLE_MACS,
    SKIPPABLE_WEIGHTS,
    SPARSITY,
    TASK,
    CriticalRow,
    CriticalTable,
    make_critical_table,
)
from sparsedial.report.row_interpretation import WARNING, describe_wide_rows
from sparsedial.report.summary_text import summarize_in_one_line
from sparsedial.study.requirement_text import describe_curve, describe_required

BREAKABLE_COLUMNS = (SPARSITY, PERPLEXITY_SPARSITY, SKIPPABLE_MACS, SKIPPABLE_WEIGHTS)
"""Columns whose text is wrapped in a narrow terminal. The others keep their width."""
PADDING = 2
"""Spaces between two columns."""


def render_terminal_table(results: Results) -> RenderableType:
    """Render the critical sparsities for the terminal.

    Several models are shown by their task averages, because a terminal is too small for hundreds of rows.

    Args:
        results: The results of one or several studies.

    Returns:
        A title, the table and its notes, for `rich.console.Console.print`. Names are never interpreted as markup.
    """
    findings = read_critical_findings(results.critical)
    table = make_critical_table(findings.headline, results.retain)
    definition = f"the highest sparsity that keeps {describe_required(results.retain)}"
    parts: list[RenderableType] = [Text(f"{summarize_in_one_line(results)}\n")]
    if table.groups:
        parts += [Text(f"Critical sparsity: {definition}\n"), _TableBody(table)]
    parts.append(Text())
    parts.extend(map(Text, _notes(results, findings, table)))
    return Group(*parts)


@dataclass(frozen=True)
class _TableBody:
    """The header and the rows, with columns that fit into the terminal.

    Attributes:
        table: A table with at least one group.
    """

    table: CriticalTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = _fit_widths(_column_widths(self.table), options.max_width)
        yield _render_header(widths)
        for group in self.table.groups:
            if group.conditions:
                yield Text(_describe_conditions(group.conditions), style="italic")
            yield _render_rows(group.rows, widths)


def _fit_widths(widths: dict[str, int], room: int) -> dict[str, int]:
    """Make the widest of `BREAKABLE_COLUMNS` narrower until the columns fit, so that their text is wrapped."""
    fitted = dict(widths)
    for _ in range(sum(widths.values()) + PADDING * (len(widths) - 1) - room):
        widest = max(BREAKABLE_COLUMNS, key=lambda column: fitted.get(column, 0))
        fitted[widest] = max(1, fitted[widest] - 1)
    return fitted


def _column_widths(table: CriticalTable) -> dict[str, int]:
    widths = {}
    for column in table.columns:
        if column == INTERPRETATION:  # the notes below the table have its text
            continue
        widths[column] = cell_len(column)
        for row in table.rows:
            widths[column] = max(widths[column], cell_len(_cell_text(row, column)))
    return widths


def _cell_text(row: CriticalRow, column: str) -> str:
    text = row.cells[column]
    if column == SPARSITY and row.is_undecided:
        return f"{text} {WARNING}"
    return text


def _make_grid(widths: dict[str, int]) -> Table:
    """Make an empty table. All groups use the same widths, so that their columns are aligned."""
    grid = Table.grid(padding=(0, PADDING))
    for column, width in widths.items():
        grid.add_column(column, width=width, overflow="fold", style="bold" if column == SITE else "")
    return grid


def _render_header(widths: dict[str, int]) -> Table:
    header = _make_grid(widths)
    header.add_row(*(Text(column, style="bold") for column in widths))
    header.add_row(*(Text("─" * width, no_wrap=True, overflow="crop") for width in widths.values()))
    return header


def _render_rows(rows: tuple[CriticalRow, ...], widths: dict[str, int]) -> Table:
    grid = _make_grid(widths)
    for row in rows:
        grid.add_row(*(Text(_cell_text(row, column)) for column in widths))
    return grid


def _notes(results: Results, findings: SplitFindings, table: CriticalTable) -> list[str]:
    notes = []
    if table.common:
        notes.append(", ".join(f"{name.lower()} {text}" for name, text in table.common.items()))
    if findings.others:
        notes.append("The table shows averages over tasks. The report also lists single tasks.")
    if results.problems:
        notes.append(f"{WARNING} problems ({len(results.problems)}): some requested results are missing or invalid")
    notes += describe_wide_rows(findings.headline, results.retain)
    if any(map(_has_bound, findings.headline)):
        words = describe_curve(results.retain)
        notes.append(f"≥ marks a lower bound: {words.quantity} at the last point is still {words.kept}, or may be.")
    return notes


def _has_bound(finding: SiteFinding) -> bool:
    return finding.sparsity.is_lower_bound or finding.sparsity.is_high_censored


def _describe_conditions(conditions: dict[str, str]) -> str:
    texts = []
    for name, text in conditions.items():
        if name in (MODEL, TASK):
            texts.append(text)
        else:
            texts.append(f"{name.lower()} {text}")
    return " · ".join(texts)
