"""The table of critical sparsities for the terminal. It fits into 80 columns."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparsedial.analysis.critical_findings import SiteFinding, SplitFindings, read_critical_findings
from sparsedial.analysis.results import Results
from sparsedial.report.critical_table import (
    MODEL,
    RULE_PARAMETER,
    SITE,
    SKIPPABLE_MACS,
    SPARSITY,
    TASK,
    CriticalRow,
    CriticalTable,
    make_critical_table,
)
from sparsedial.report.formatting import format_retain
from sparsedial.report.row_interpretation import WARNING, describe_wide_intervals

COLUMNS = (SITE, SPARSITY, RULE_PARAMETER, SKIPPABLE_MACS)


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
    widths = _column_widths(table)
    definition = f"the highest sparsity that keeps {format_retain(results.retain)} of the dense score"
    parts: list[RenderableType] = [
        Text(f"Critical sparsity: {definition}\n"),
        _render_header(widths),
    ]
    for group in table.groups:
        if group.conditions:
            parts.append(Text(_describe_conditions(group.conditions), style="italic"))
        parts.append(_render_rows(group.rows, widths))
    parts.append(Text())
    parts.extend(map(Text, _notes(results, findings, table)))
    return Group(*parts)


def _column_widths(table: CriticalTable) -> dict[str, int]:
    widths = {}
    for column in COLUMNS:
        widths[column] = cell_len(column)
        for row in table.rows:
            widths[column] = max(widths[column], cell_len(_cell_text(row, column)))
    return widths


def _cell_text(row: CriticalRow, column: str) -> str:
    text = row.cells[column]
    if column == SPARSITY and row.is_wide:
        return f"{text} {WARNING}"
    return text


def _make_grid(widths: dict[str, int]) -> Table:
    """Make an empty table. All groups use the same widths, so that their columns are aligned."""
    grid = Table.grid(padding=(0, 2))
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
    wide = [finding for finding in findings.headline if finding.is_wide]
    if wide:
        notes.append(f"{WARNING} {describe_wide_intervals(wide)}")
    if any(map(_has_bound, findings.headline)):
        retained = format_retain(results.retain)
        notes.append(f"≥ marks a lower bound: retention at the last point is still at least {retained}, or may be.")
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
