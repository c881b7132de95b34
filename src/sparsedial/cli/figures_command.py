"""``sparsedial figures``: write the figures of finished trials for use in publications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsedial.cli.console import out, print_json, set_output
from sparsedial.cli.exit_codes import EXIT_INCOMPLETE
from sparsedial.cli.options import IncludeMissing, JsonOutput, Quiet, Reference, check_reference_options
from sparsedial.cli.parsing import split_names
from sparsedial.measurement.progress_display import escape_markup

if TYPE_CHECKING:
    import pandas as pd


def figures(  # noqa: PLR0913 - one parameter per command-line option
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="Output directories of one or more runs, or directories with the CSV files of a report.",
        ),
    ],
    out_dir: Annotated[Path, typer.Option("--out", help="Output directory.")],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Comma-separated or repeated file formats: svg, pdf and png. Default: svg,pdf."),
    ] = None,
    reference: Reference = None,
    include_missing: IncludeMissing = False,
    retain: Annotated[
        float | None,
        typer.Option(
            help="Share of the dense score that a sparse model has to keep. Default: the value used in the runs."
        ),
    ] = None,
    json: JsonOutput = False,
    quiet: Quiet = False,
) -> None:
    """Write the figures of the paper for one run, or for several runs together.

    Figures that need other data are listed with what they need.
    """
    from sparsedial.analysis.references.comparison import compare_with_references
    from sparsedial.analysis.references.loading import load_references
    from sparsedial.analysis.result_sources import read_results
    from sparsedial.optional_packages import require_extra

    set_output(json, quiet)
    check_reference_options(reference, include_missing)
    require_extra("report", "sparsedial figures")
    from sparsedial.report.publication.catalog import make_publication_figures
    from sparsedial.report.publication.export import DEFAULT_FORMATS, INDEX_NAME, check_formats, export_figures
    from sparsedial.report.publication.reference_rows import References

    suffixes = list(dict.fromkeys(split_names(*formats or DEFAULT_FORMATS)))
    check_formats(suffixes)
    references = load_references(reference or [])
    results = read_results(folders, retain)
    comparison = None
    if references:
        comparison = compare_with_references(results, references, include_missing)
    drawn = make_publication_figures(results, References(references, comparison))
    paths = export_figures(drawn, out_dir, suffixes, comparison)
    if comparison is not None:
        print_comparison(comparison)
    _print_figures(paths, drawn.not_drawn, results.problems)
    if json:
        print_json((out_dir / INDEX_NAME).read_bytes())
    if results.problems:
        raise typer.Exit(EXIT_INCOMPLETE)


def _print_figures(paths: Sequence[Path], not_drawn: Mapping[str, str], problems: Sequence[str]) -> None:
    """Print the written files, the figures that could not be drawn, and the problems of the runs."""
    for path in paths:
        out.print(f"wrote {escape_markup(str(path))}", soft_wrap=True)
    for kind, reason in not_drawn.items():
        out.print(f"[cyan]not drawn:[/] {kind}: {escape_markup(reason)}", soft_wrap=True)
    for problem in problems:
        out.print(f"[yellow]problem:[/] {escape_markup(problem)}", soft_wrap=True)


def print_comparison(comparison: pd.DataFrame) -> None:
    """Print the comparison with references, one line per value.

    Args:
        comparison: Table of `compare_with_references`.
    """
    from sparsedial.report.reference_table import describe_comparison

    for line in describe_comparison(comparison):
        out.print(escape_markup(line), soft_wrap=True)
