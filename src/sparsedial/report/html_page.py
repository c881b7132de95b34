"""The report: one self-contained HTML page, with its figures and its numbers as files beside it.

The page loads nothing. Its content security policy allows one style sheet and one script, both inside of the page.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from itertools import starmap
from pathlib import Path

from sparsedial.analysis.results import Results
from sparsedial.report.charts.drawn_figure import Figure as DrawnFigure
from sparsedial.report.charts.rendering import to_png, to_svg
from sparsedial.report.csv_and_json import write_file
from sparsedial.report.figures.catalog import make_comparison_figures, make_model_figures, make_pair_figures
from sparsedial.report.figures.profile_data import read_profiles
from sparsedial.report.output_folder import PAGE_NAME, check_report_folder
from sparsedial.report.page.document import PageFigures, render_document
from sparsedial.report.page.html_elements import escape
from sparsedial.report.plots.standalone_svg import make_standalone_svg
from sparsedial.report.publication.catalog import make_reference_figures
from sparsedial.report.table_files import list_table_files, list_tables, write_table_files


def write_report(results: Results, folder: Path | str) -> Path:
    """Write the page, its figures and its numbers.

    The directory also gets ``figures/*.svg`` and ``figures/*.png``, a CSV file for each table (``critical.csv``,
    ``points.csv``, ``layers.csv``, ...) and ``results.json``. Every file is written atomically, the page last. Files of
    an earlier report are replaced.

    Args:
        results: The results of one or several studies.
        folder: Directory of the report. It is created if it is missing.

    Returns:
        Path of ``report.html``.

    Raises:
        StorageError: A file cannot be written, or would replace a file that is not of a report.
    """
    target = Path(folder)
    reference_svgs = _draw_references(results)
    figures = _draw_figures(results, reference_svgs)
    svgs = {}
    for figure in figures.all_figures():
        svgs[figure.name] = make_standalone_svg(figure)
    for reference, svg in reference_svgs:
        svgs[reference.name] = svg
    files = list_table_files(results)
    check_report_folder(target, _file_names(files, svgs))
    write_table_files(results, target)
    for name, svg in svgs.items():
        write_file(target / "figures" / f"{name}.svg", svg.encode())
        write_file(target / "figures" / f"{name}.png", to_png(svg))
    page = target / PAGE_NAME
    write_file(page, render_document(results, figures, list_tables(results), files).encode())
    return page


def render_page(results: Results) -> str:
    """Return the page alone, with its figures inside, and without the names of files beside it.

    Args:
        results: The results of one or several studies.

    Returns:
        HTML.
    """
    figures = _draw_figures(results, _draw_references(results))
    return render_document(results, figures, list_tables(results))


def _draw_references(results: Results) -> list[tuple[DrawnFigure, str]]:
    """Return the figures with values of references, with their SVG."""
    return [(figure, to_svg(figure.chart)) for figure in make_reference_figures(results)]


def _draw_figures(results: Results, reference_svgs: Iterable[tuple[DrawnFigure, str]]) -> PageFigures:
    profiles = read_profiles(results)
    return PageFigures(
        comparisons=tuple(make_comparison_figures(results)),
        pairs=tuple(make_pair_figures(results)),
        models=tuple(make_model_figures(results, profiles)),
        profiles=profiles,
        references="".join(starmap(_embed_image, reference_svgs)),
    )


def _embed_image(figure: DrawnFigure, svg: str) -> str:
    """Return a figure for publications as an image inside the page."""
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<figure id="{escape(figure.name)}"><div class="image" tabindex="0" role="group" '
        f'aria-label="Figure with values of references"><img alt="{escape(figure.description)}" '
        f'src="data:image/svg+xml;base64,{data}"></div></figure>'
    )


def _file_names(table_files: Iterable[str], figures: Iterable[str]) -> list[str]:
    """Return the relative paths of all files of the report."""
    names = [PAGE_NAME, *table_files]
    for figure in figures:
        names += [f"figures/{figure}.svg", f"figures/{figure}.png"]
    return names
