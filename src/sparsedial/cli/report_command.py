"""``sparsedial report``: write the report of finished trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsedial.cli.console import out, print_json, set_output
from sparsedial.cli.exit_codes import EXIT_INCOMPLETE
from sparsedial.cli.options import IncludeMissing, JsonOutput, Quiet, Reference, check_reference_options
from sparsedial.measurement.progress_display import escape_markup

if TYPE_CHECKING:
    from sparsedial.analysis.results import Results


def report(  # noqa: PLR0913 - one parameter per command-line option
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
    criterion: Annotated[
        str | None,
        typer.Option(
            help="score, perplexity (all tables are those of the perplexity criterion) or both. Default: that of the "
            "runs."
        ),
    ] = None,
    reference: Reference = None,
    include_missing: IncludeMissing = False,
    json: JsonOutput = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of one run, or a joint report of several runs, from their finished trials."""
    from sparsedial.analysis.references.comparison import compare_with_references
    from sparsedial.analysis.references.loading import load_references
    from sparsedial.analysis.results import compute_results
    from sparsedial.optional_packages import require_extra
    from sparsedial.study.store import Store

    set_output(json, quiet)
    check_reference_options(reference, include_missing)
    require_extra("report", "sparsedial report")
    from sparsedial.report.html_page import write_report
    from sparsedial.report.page.provenance import REPORT_COMMAND

    if out_dir is None:
        out_dir = folders[0] if len(folders) == 1 else Path("runs") / "joined"
    references = load_references(reference or [])
    results = compute_results([Store(folder) for folder in folders], retain, criterion)
    if references:
        results = replace(results, reference=compare_with_references(results, references, include_missing))
    if len(folders) > 1:
        command = ["sparsedial", "report", *map(str, folders), "--out", str(out_dir)]
        if retain is not None:
            command += ["--retain", f"{retain:g}"]
        for name in reference or []:
            command += ["--reference", str(name)]
        if include_missing:
            command.append("--include-missing")
        if criterion is not None:
            command += ["--criterion", criterion]
        results = replace(results, provenance={**results.provenance, REPORT_COMMAND: command})
    print_results(results, "report", write_report(results, out_dir), json)
    if results.problems:
        raise typer.Exit(EXIT_INCOMPLETE)


def print_results(results: Results, kind: str, path: Path, json: bool) -> None:
    """Print the main table of a report, the origin of its models, its notes and problems, and its path.

    Args:
        results: The results of one or several studies.
        kind: What was written: "report" or "tables".
        path: Path of the page, or of the directory with the tables.
        json: True to print the content of ``results.json`` as well.
    """
    from sparsedial.analysis.study_provenance import find_origins
    from sparsedial.report.csv_and_json import to_json
    from sparsedial.report.generation_tables import render_terminal_costs
    from sparsedial.report.reference_table import describe_comparison
    from sparsedial.report.table_files import results_object
    from sparsedial.report.terminal_table import render_terminal_table

    out.print(render_terminal_table(results))
    costs = render_terminal_costs(results)
    if costs is not None:
        out.print(costs)
    for model in find_origins(results.provenance):
        out.print(f"[cyan]model:[/] {escape_markup(model.description)}", soft_wrap=True)
    for line in describe_comparison(results.reference):
        out.print(f"[cyan]reference:[/] {escape_markup(line)}", soft_wrap=True)
    for note in results.notes:
        out.print(f"[cyan]note:[/] {escape_markup(note)}", soft_wrap=True)
    for problem in results.problems:
        out.print(f"[yellow]problem:[/] {escape_markup(problem)}", soft_wrap=True)
    out.print(f"{kind}: {escape_markup(str(path))}", soft_wrap=True)
    if json:
        print_json(to_json(results_object(results)))
