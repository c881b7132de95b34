"""``sparsedial report``: write the report of finished trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsedial.cli.console import out
from sparsedial.measurement.progress_display import escape_markup

if TYPE_CHECKING:
    from sparsedial.analysis.results import Results


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
    from sparsedial.analysis.results import compute_results
    from sparsedial.report.html_page import write_report
    from sparsedial.study.store import Store

    if out_dir is None:
        out_dir = folders[0] if len(folders) == 1 else Path("runs") / "joined"
    results = compute_results([Store(folder) for folder in folders], retain)
    print_results(results, write_report(results, out_dir))
    if results.problems:
        raise typer.Exit(1)


def print_results(results: Results, page: Path) -> None:
    """Print the main table of a report, its notes and problems, and the path of its page.

    Args:
        results: The results of one or several studies.
        page: Path of the page.
    """
    from sparsedial.report.terminal_table import render_terminal_table

    out.print(render_terminal_table(results))
    for note in results.notes:
        out.print(f"[cyan]note:[/] {escape_markup(note)}", soft_wrap=True)
    for problem in results.problems:
        out.print(f"[yellow]problem:[/] {escape_markup(problem)}", soft_wrap=True)
    out.print(f"report: {escape_markup(str(page))}", soft_wrap=True)
