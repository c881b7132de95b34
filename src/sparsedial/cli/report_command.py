"""``sparsedial report``: write the report of finished trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsedial.cli.console import out
from sparsedial.cli.options import IncludeMissing, Reference
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
    reference: Reference = None,
    include_missing: IncludeMissing = False,
) -> None:
    """Write the report of one run, or a joint report of several runs, from their finished trials."""
    from sparsedial.analysis.references.comparison import compare_with_references
    from sparsedial.analysis.references.loading import load_references
    from sparsedial.analysis.results import compute_results
    from sparsedial.report.html_page import write_report
    from sparsedial.study.store import Store

    if out_dir is None:
        out_dir = folders[0] if len(folders) == 1 else Path("runs") / "joined"
    references = load_references(reference or [])
    results = compute_results([Store(folder) for folder in folders], retain)
    if references:
        results = replace(results, reference=compare_with_references(results, references, include_missing))
    print_results(results, write_report(results, out_dir))
    if results.problems:
        raise typer.Exit(1)


def print_results(results: Results, page: Path) -> None:
    """Print the main table of a report, its notes and problems, and the path of its page.

    Args:
        results: The results of one or several studies.
        page: Path of the page.
    """
    from sparsedial.report.generation_tables import render_terminal_costs
    from sparsedial.report.reference_table import describe_comparison
    from sparsedial.report.terminal_table import render_terminal_table

    out.print(render_terminal_table(results))
    costs = render_terminal_costs(results)
    if costs is not None:
        out.print(costs)
    for line in describe_comparison(results.reference):
        out.print(f"[cyan]reference:[/] {escape_markup(line)}", soft_wrap=True)
    for note in results.notes:
        out.print(f"[cyan]note:[/] {escape_markup(note)}", soft_wrap=True)
    for problem in results.problems:
        out.print(f"[yellow]problem:[/] {escape_markup(problem)}", soft_wrap=True)
    out.print(f"report: {escape_markup(str(page))}", soft_wrap=True)
