"""The HTML document: its head, its sections and the data for its script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from sparsedial.analysis.critical_findings import SiteFinding, read_critical_findings
from sparsedial.analysis.results import Results
from sparsedial.report.critical_table import make_critical_table
from sparsedial.report.figures.catalog import ModelFigures
from sparsedial.report.figures.profile_data import Profiles
from sparsedial.report.generation_tables import make_generation_tables
from sparsedial.report.output_folder import GENERATOR
from sparsedial.report.page import glossary
from sparsedial.report.page.changed_tables import make_changed_tables
from sparsedial.report.page.content_security import content_security_policy, page_script, page_style
from sparsedial.report.page.embedded_data import render_embedded_data
from sparsedial.report.page.figure_html import render_figures
from sparsedial.report.page.html_elements import (
    escape,
    fold,
    render_critical_table,
    render_detail_table,
    render_list,
    render_sortable_table,
)
from sparsedial.report.page.points_table import make_points_table
from sparsedial.report.page.provenance import render_model_line, render_provenance
from sparsedial.report.page.side_by_side import make_side_by_side_tables
from sparsedial.report.pair_table import make_pair_tables
from sparsedial.report.plots.figure import Figure
from sparsedial.report.reference_table import make_reference_table
from sparsedial.report.summary_text import describe_missing, summarize_comparisons, summarize_models
from sparsedial.report.supplementary_tables import make_detail_tables

MAX_ANSWERS = 12
"""Number of answers, and of statements, that are shown without being opened."""

CHANGED_HEADING = "What changes near the critical sparsity"

TABLE_FILES = {
    "Model size": "trends",
    "Outlier experts": "experts",
    "Generated texts": "generated",
    "Cost of generated texts": "cost",
    "Thinking and answer": "segments",
    "Differences between models": "differences",
    "Differences between rules": "differences",
}
"""Name of the table with all digits, by the heading of a section."""


@dataclass(frozen=True)
class PageFigures:
    """The figures of a page.

    Attributes:
        comparisons: Figures that compare sites, models and tasks.
        pairs: Figures that put models, or rules, side by side.
        models: Figures of each model.
        profiles: The numbers of layers and experts at every measured p.
        references: HTML of the figures with values of references. Empty if there are none.
    """

    comparisons: tuple[Figure, ...]
    pairs: tuple[Figure, ...]
    models: tuple[ModelFigures, ...]
    profiles: Profiles
    references: str

    def all_figures(self) -> list[Figure]:
        """Return all figures but those of references."""
        figures = [*self.comparisons, *self.pairs]
        for model in self.models:
            figures += model.figures
        return figures


def render_document(results: Results, figures: PageFigures, tables: Sequence[str], files: Sequence[str] = ()) -> str:
    """Return the page.

    Args:
        results: The results of one or several studies.
        figures: The figures.
        tables: Names of the tables of the results to embed.
        files: Names of the files that are written with the page. Defaults to none.

    Returns:
        HTML that needs no other file.
    """
    title = escape(results.title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{content_security_policy()}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{GENERATOR}'
        f"<title>{title}</title><style>{page_style()}</style></head>\n"
        f"<body><main><h1>{title}</h1>{render_model_line(results.provenance)}{_render_problems(results.problems)}"
        f"{_render_answer(results)}{_render_notes(results.notes)}"
        f"{_render_sections(results, figures, files)}"
        f"</main>{render_embedded_data(results, figures.profiles, tables)}"
        f"<script>{page_script()}</script></body></html>\n"
    )


def _render_sections(results: Results, figures: PageFigures, files: Sequence[str]) -> str:
    parts = [
        _section("At a glance", render_figures(figures.comparisons)),
        _section("Critical sparsity", _render_critical(results)),
        _section("Side by side", _render_pairs(results, figures.pairs)),
    ]
    for table in (*make_detail_tables(results), *make_generation_tables(results)):
        parts.append(_section(table.heading, render_detail_table(table, TABLE_FILES.get(table.heading, ""))))
    if not results.reference.empty:
        reference = make_reference_table(results.reference)
        content = figures.references + render_detail_table(reference, "reference")
        parts.append(_section(reference.heading, content))
    parts += [
        _section("Curves and layers", _render_models(results, figures.models)),
        _section(CHANGED_HEADING, _render_changed(results)),
        _render_points(results),
        _section("Provenance", render_provenance(results.provenance) + _render_file_names(files)),
    ]
    return "".join(parts)


def _section(heading: str, content: str) -> str:
    if not content:
        return ""
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def _render_answer(results: Results) -> str:
    summaries = summarize_models(results)
    if not summaries:
        return f'<p class="answer">{escape(describe_missing(results))}</p>'
    definitions = glossary.define_answer_terms(results)
    items = []
    for summary in summaries:
        item = f'<p class="answer">{escape(summary.answer)}</p>'
        if summary.details:
            item += f'<p class="details">{escape(summary.details)}</p>'
        items.append(item)
    if len(items) == 1:
        return f'<section class="top">{items[0]}{definitions}</section>'
    shown = _answer_list(items[:MAX_ANSWERS])
    if len(items) > MAX_ANSWERS:
        shown += fold("Further answers", _answer_list(items[MAX_ANSWERS:]))
    comparisons = summarize_comparisons(results)
    statements = render_list(comparisons[:MAX_ANSWERS])
    if len(comparisons) > MAX_ANSWERS:
        statements += fold("Further statements", render_list(comparisons[MAX_ANSWERS:]))
    return f'<section class="top">{shown}{statements}{definitions}</section>'


def _answer_list(items: Iterable[str]) -> str:
    entries = "".join(f"<li>{item}</li>" for item in items)
    return f'<ul class="answers">{entries}</ul>'


def _render_problems(problems: list[str]) -> str:
    if not problems:
        return ""
    heading = "<h2>Problems</h2><p>Some requested results are missing or invalid:</p>"
    return f'<section class="problems" role="note">{heading}{render_list(problems)}</section>'


def _render_notes(notes: list[str]) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _render_critical(results: Results) -> str:
    """Return the definitions of the columns and the tables of critical sparsities."""
    findings = read_critical_findings(results.critical)
    if not findings.headline and not findings.others:
        return f"<p>{escape(describe_missing(results))}</p>"
    content = _define_columns([*findings.headline, *findings.others])
    if findings.headline:
        content += render_critical_table(make_critical_table(findings.headline, results.retain))
    if findings.others:
        table = render_critical_table(make_critical_table(findings.others, results.retain), "Task by task")
        content += fold("Task by task", table)
    return content


def _define_columns(findings: Sequence[SiteFinding]) -> str:
    terms = [glossary.AT_LEAST, glossary.P, glossary.MACS]
    if all(map(attrgetter("is_estimate"), findings)):
        terms.remove(glossary.AT_LEAST)
    if any(finding.skippable_weights.high is not None for finding in findings):
        terms.append(glossary.WEIGHTS)
    return glossary.define(*terms)


def _render_pairs(results: Results, figures: Sequence[Figure]) -> str:
    parts = []
    for table in make_side_by_side_tables(results):
        parts.append(f"<h3>{escape(table.heading)}</h3>{render_detail_table(table)}")
    parts.append(render_figures(figures))
    for table in make_pair_tables(results):
        name = TABLE_FILES[table.heading]
        parts.append(f"<h3>{escape(table.heading)}</h3>{render_detail_table(table, name)}")
    return "".join(parts)


def _render_models(results: Results, models: Sequence[ModelFigures]) -> str:
    if not models:
        return "<p>No figures could be drawn, because there are no valid points.</p>"
    parts = [glossary.define_retention(results)]
    for index, model in enumerate(models, start=1):
        name = escape(model.model)
        content = render_figures(model.figures)
        if len(models) > 1:
            content = f"<h3>{name}</h3>{content}"
        parts.append(f'<section class="of-model" id="model-{index}" data-model="{name}">{content}</section>')
    return "".join(parts)


def _render_changed(results: Results) -> str:
    parts = []
    for table in make_changed_tables(results):
        parts.append(render_detail_table(table, table.heading.replace("-", "_")))
    return "".join(parts)


def _render_points(results: Results) -> str:
    table = make_points_table(results)
    if table is None:
        return ""
    note = "<p>Retention is relative to the dense model on the same examples.</p>"
    return f'<section id="points"><h2>All measured points</h2>{note}{render_sortable_table(table)}</section>'


def _render_file_names(names: Iterable[str]) -> str:
    """Return the names of the files that were written with the page.

    They are no links, because a page that is copied or sent without its directory would have dead ones.
    """
    listed = ", ".join(map(escape, names))
    if not listed:
        return ""
    return f'<p class="files">Data files, written to the directory of this page: {listed}</p>'
