"""The report: one self-contained HTML page, with its figures and its numbers as files beside it.

The page needs no network and runs no script. Its content security policy forbids both.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.analysis.results import Results
from sparsedial.report.charts.catalog import Figure, make_comparison_figures, make_detail_figures
from sparsedial.report.charts.rendering import save_chart, to_svg
from sparsedial.report.critical_table import make_critical_table
from sparsedial.report.csv_and_json import to_csv, to_json, write_file
from sparsedial.report.formatting import format_retain
from sparsedial.report.generation_tables import make_generation_tables
from sparsedial.report.html_elements import (
    escape,
    fold,
    render_critical_table,
    render_detail_table,
    render_list,
)
from sparsedial.report.html_provenance import render_model_line, render_provenance
from sparsedial.report.output_folder import RESULTS_NAME, check_report_folder
from sparsedial.report.pair_table import make_pair_tables
from sparsedial.report.publication.catalog import make_reference_figures
from sparsedial.report.reference_table import make_reference_table
from sparsedial.report.stylesheet import CSS
from sparsedial.report.summary_text import describe_missing, summarize
from sparsedial.report.supplementary_tables import make_detail_tables

SCHEMA = 2
"""Version of ``results.json``."""

PAGE_NAME = "report.html"

SVG_NAMESPACE = "http://www.w3.org/2000/svg"

REQUIRED_TABLES = ("critical", "points", "layers")
"""Tables that are written even if they are empty."""

OPTIONAL_TABLES = (
    "trends",
    "differences",
    "experts",
    "steps",
    "step_overlap",
    "generated",
    "segments",
    "cost",
    "reference",
)

MAX_STATEMENTS = 12
"""Number of statements below the answer that are shown without being opened."""

PUBLICATION_SCALE = 1.5
"""Factor by which figures for publications, whose text is small, are enlarged in the page."""

NO_DETAILS = "<p>No figures could be drawn, because there are no valid points.</p>"

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

TERMS = {
    "site": "The activation vector that is made sparse. input: the vector that the FFN reads. up: the output of the up "
    "projection. gate: the output of the gate projection after its activation function. intermediate: the product of "
    "up and gate. all_inputs: both input and intermediate, the vectors that the FFN's weight matrices multiply. "
    "attention_input: the hidden state that the projections of an attention read. attention_output: the output of an "
    "attention, which its output projection reads. lm_head_input: the vector that the output layer reads.",
    "top-p": "The rule that keeps the fewest entries of a vector, in descending order of magnitude, whose magnitudes "
    "sum to at least p times the L1 norm of the vector. Sparsity is the share of entries that are dropped. "
    "p = 1 is the dense model.",
    "retention": "The score of the sparse model divided by the score of the dense model, on the same examples. If "
    "lower scores are better, the dense score divided by the sparse score.",
    "average": "The mean score over the tasks at each p, as in the paper, if all scores lie between 0 and 1 and higher "
    "is better. Otherwise it is an average of retentions. Tasks whose dense score cannot be told from chance are left "
    "out.",
    "critical sparsity": "The highest sparsity with a retention of at least {retain}. It is computed by linear "
    "interpolation between the dense model and the measured points. The ends of its 95% confidence interval (CI) are "
    "measured points: the last one that is shown to keep this share, and the first one from which on every point is "
    "shown to lose it. A value or bound marked with ≥ is a lower bound.",
    "at least": "The lower end of the interval, which can be relied on with 97.5% confidence. It is named first where "
    "the interval is wider than the study requests (±2 percentage points by default). p and skippable MACs are then "
    "those of this point.",
    "skippable MACs": "The share of the FFN's multiply-accumulates (MACs) that a runtime can skip at the critical "
    "sparsity, because one of their factors is zero. At a site outside of the FFN: of the multiply-accumulates of the "
    "projections that read the vector.",
    "of all weights": "The same as a share of all weights that the model reads for one token: those of the FFNs, the "
    "attentions, the output layer and the norms, without the table of embeddings. In a mixture of experts, an expert "
    "counts in proportion to the tokens that it reads.",
}


@dataclass(frozen=True)
class RenderedFigures:
    """The figures of a page as HTML.

    Attributes:
        comparisons: Figures that compare sites, models and tasks.
        details: Figures of each model.
        references: Figures with values of references. Empty if there are none.
    """

    comparisons: str
    details: str
    references: str


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
    comparison_figures = list(make_comparison_figures(results))
    detail_figures = list(make_detail_figures(results))
    reference_figures = make_reference_figures(results)
    check_report_folder(target, _file_names(results, [*comparison_figures, *detail_figures, *reference_figures]))
    write_file(target / RESULTS_NAME, to_json({"schema": SCHEMA, **vars(results)}))
    for name in _table_names(results):
        write_file(target / f"{name}.csv", to_csv(getattr(results, name)))
    rendered = RenderedFigures(
        comparisons=_render_figures(comparison_figures, target / "figures"),
        details=_render_figures(detail_figures, target / "figures"),
        references=_render_figures(reference_figures, target / "figures", PUBLICATION_SCALE),
    )
    page = target / PAGE_NAME
    write_file(page, _render_page(results, rendered, has_files=True).encode())
    return page


def render_page(results: Results) -> str:
    """Return the page alone, with its figures inside, and without the names of files beside it.

    Args:
        results: The results of one or several studies.

    Returns:
        HTML.
    """
    rendered = RenderedFigures(
        comparisons=_render_figures(make_comparison_figures(results), None),
        details=_render_figures(make_detail_figures(results), None),
        references=_render_figures(make_reference_figures(results), None, PUBLICATION_SCALE),
    )
    return _render_page(results, rendered, has_files=False)


def _file_names(results: Results, figures: Iterable[Figure]) -> list[str]:
    """Return the relative paths of all files of the report."""
    names = [PAGE_NAME, RESULTS_NAME]
    names += [f"{name}.csv" for name in _table_names(results)]
    for figure in figures:
        names += [f"figures/{figure.name}.svg", f"figures/{figure.name}.png"]
    return names


def _table_names(results: Results) -> list[str]:
    """Return the names of the tables that become CSV files."""
    optional = [name for name in OPTIONAL_TABLES if not getattr(results, name).empty]
    return [*REQUIRED_TABLES, *optional]


def _render_figures(figures: Iterable[Figure], folder: Path | None, scale: float = 1.0) -> str:
    """Return the figures as HTML, after saving them if there is a directory for them."""
    parts = []
    for figure in figures:
        svg = to_svg(figure.chart) if folder is None else save_chart(figure.chart, folder / figure.name)
        parts.append(_embed_svg(figure, svg, scale))
    return "".join(parts)


def _embed_svg(figure: Figure, svg: str, scale: float) -> str:
    """Return the SVG in a figure element. Its IDs get a prefix, because IDs must be unique in a page."""
    ET.register_namespace("", SVG_NAMESPACE)
    root = ET.fromstring(svg)
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{figure.name}-{value}")
            else:
                element.set(key, value.replace("url(#", f"url(#{figure.name}-"))
    for dimension in ("width", "height"):
        root.set(dimension, f"{scale * float(root.attrib[dimension]):g}")
    root.set("role", "img")
    root.set("aria-label", figure.description)
    inline = ET.tostring(root, encoding="unicode")
    return f'<figure id="{figure.name}"><div class="wide">{inline}</div></figure>'


def _render_page(results: Results, figures: RenderedFigures, has_files: bool) -> str:
    title = escape(results.title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style></head>\n"
        f"<body><main><h1>{title}</h1>{render_model_line(results.provenance)}{_render_problems(results.problems)}"
        f"{_render_answer(results)}{_render_notes(results.notes)}"
        f"{_render_sections(results, figures, has_files)}"
        "</main></body></html>\n"
    )


def _render_sections(results: Results, figures: RenderedFigures, has_files: bool) -> str:
    sections = [("At a glance", figures.comparisons), ("Critical sparsity", _render_critical(results, has_files))]
    for table in (*make_pair_tables(results), *make_detail_tables(results), *make_generation_tables(results)):
        sections.append((table.heading, render_detail_table(table)))
    if not results.reference.empty:
        table = make_reference_table(results.reference)
        sections.append((table.heading, figures.references + render_detail_table(table)))
    sections += [
        (
            "Curves and layers",
            figures.details or "<p>No figures could be drawn, because there are no valid points.</p>",
        ),
        ("Terms", _render_terms(results.retain)),
        ("Provenance", render_provenance(results.provenance)),
    ]
    parts = []
    for heading, content in sections:
        if content:
            parts.append(f"<section><h2>{heading}</h2>{content}</section>")
    return "".join(parts)


def _render_answer(results: Results) -> str:
    answer, *statements = summarize(results)
    content = f'<p class="answer">{escape(answer)}</p>{render_list(statements[:MAX_STATEMENTS])}'
    if len(statements) > MAX_STATEMENTS:
        content += fold("Further statements", render_list(statements[MAX_STATEMENTS:]))
    return content


def _render_problems(problems: list[str]) -> str:
    if not problems:
        return ""
    heading = "<h2>Problems</h2><p>Some requested results are missing or invalid:</p>"
    return f'<section class="problems" role="note">{heading}{render_list(problems)}</section>'


def _render_notes(notes: list[str]) -> str:
    return "".join(map(_render_note, notes))


def _render_note(note: str) -> str:
    return f'<p class="note">{escape(note)}</p>'


def _render_critical(results: Results, has_files: bool) -> str:
    """Return the tables of critical sparsities, with the names of all files if there are any."""
    findings = read_critical_findings(results.critical)
    content = f"<p>{describe_missing(results)}</p>"
    if findings.headline:
        content = render_critical_table(make_critical_table(findings.headline, results.retain))
    if findings.others:
        content += fold("Task by task", render_critical_table(make_critical_table(findings.others, results.retain)))
    if not has_files:
        return content
    files = [f"{name}.csv" for name in _table_names(results)]
    return content + render_file_names([*files, "results.json"])


def render_file_names(names: Iterable[str]) -> str:
    """Return the names of the files that were written with the page.

    They are no links, because a page that is copied or sent without its directory would have dead ones.

    Args:
        names: Names of the files.

    Returns:
        HTML.
    """
    listed = ", ".join(map(escape, names))
    return f'<p class="files">Data files, written to the directory of this page: {listed}</p>'


def _render_terms(retain: float) -> str:
    entries = []
    for term, definition in TERMS.items():
        entries.append(f"<dt>{term}</dt><dd>{definition.format(retain=format_retain(retain))}</dd>")
    return f"<dl>{''.join(entries)}</dl>"
