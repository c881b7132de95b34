"""``sparsedial report``: write the report of finished trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sparsedial.cli.console import escape_markup, out


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output directories of one or more runs.")],
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Output directory. Default: the directory of a single run, or runs/joined for several runs."
        ),
    ] = None,
    retain: Annotated[
        float | None,
        typer.Option(
            help="Share of the dense score that a sparse model has to keep. Default: the value used in the runs."
        ),
    ] = None,
) -> None:
    """Write the report of one run, or a joint report of several runs, from their finished trials."""
    write_and_print_report(folders, out_dir, retain)


def write_and_print_report(folders: Sequence[Path], out_dir: Path | None = None, retain: float | None = None) -> None:
    """Write a report, and print its main table, notes and problems.

    Args:
        folders: Directories of studies.
        out_dir: Output directory. Defaults to the directory of a single study, or to runs/joined.
        retain: Share of the dense score that a sparse model has to keep. Defaults to the value in the studies.

    Raises:
        typer.Exit: There are problems.
    """
    from sparsedial.analysis.results import compute_results
    from sparsedial.report.html_page import write_report
    from sparsedial.report.terminal_table import render_terminal_table
    from sparsedial.study.store import Store

    if out_dir is None:
        out_dir = folders[0] if len(folders) == 1 else Path("runs") / "joined"
    results = compute_results([Store(folder) for folder in folders], retain)
    page = write_report(results, out_dir)
    out.print(render_terminal_table(results))
    for note in results.notes:
        out.print(f"[cyan]note:[/] {escape_markup(note)}", soft_wrap=True)
    for problem in results.problems:
        out.print(f"[yellow]problem:[/] {escape_markup(problem)}", soft_wrap=True)
    out.print(f"report: {escape_markup(str(page))}", soft_wrap=True)
    if results.problems:
        raise typer.Exit(1)
