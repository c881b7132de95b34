"""A report by the perplexity criterion says what is kept: a perplexity, and no share of a score."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from sparsedial.analysis.findings import compute_findings
from sparsedial.report.critical_table import make_critical_table
from sparsedial.report.figures.catalog import make_comparison_figures, make_model_figures
from sparsedial.report.figures.profile_data import read_profiles
from sparsedial.report.html_page import write_report
from sparsedial.report.publication.catalog import make_publication_figures
from sparsedial.report.publication.reference_rows import References
from sparsedial.report.row_interpretation import describe_wide_rows
from sparsedial.report.summary_text import summarize, summarize_in_one_line
from sparsedial.report.terminal_table import render_terminal_table
from sparsedial.study.criterion import RETAIN_BY_PERPLEXITY
from tests.support.report_sample import sample

MODELS = ("fam-100m", "fam-400m")
HIGHER = "perplexity at most 1% higher"
CLAUSE = "the perplexity is at most 1% higher than that of the dense model"
DEFINITION = "the highest sparsity that keeps a perplexity at most 1% higher than that of the dense model"


def by_perplexity(**options):
    """Return the sample as the results of the perplexity criterion."""
    return replace(sample(**options), retain=RETAIN_BY_PERPLEXITY)


def changed(results, **columns):
    """Return results with other columns of critical sparsities."""
    return replace(results, critical=results.critical.assign(**columns))


def undecided(results):
    """Return results in which no point is shown to meet the condition."""
    return changed(results, low=0.0, is_wide=True, needs_points=True)


def terminal_text(results):
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(render_terminal_table(results))
    return console.file.getvalue()


def test_summary():
    (text,) = summarize(by_perplexity())
    assert f"of the intermediate activations can be dropped while {CLAUSE}, the most of the 5 sites." in text
    results = by_perplexity(models=MODELS)
    assert summarize(results)[0].endswith(f"at the best site can be dropped while {CLAUSE}.")
    assert f"while {CLAUSE}: no measured point is shown to meet this condition." in summarize(undecided(results))[0]
    assert CLAUSE in summarize_in_one_line(by_perplexity())


def test_terminal():
    text = terminal_text(by_perplexity())
    assert f"Critical sparsity: {DEFINITION}\n" in text
    assert "dense score 0." in text.lower() and "of the dense score" not in text


def test_rows_that_are_not_decided():
    results = undecided(by_perplexity())
    findings = [comparison.headline for comparison in compute_findings(results).models]
    (row,) = make_critical_table(findings, results.retain).rows
    assert row.cells["Interpretation"].startswith(f"⚠ Not decided: no measured point is shown to keep a {HIGHER}.")
    (note,) = describe_wide_rows(findings, results.retain)
    assert note.startswith(f"⚠ not decided: no measured point is shown to keep a {HIGHER}.")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "The perplexity is 1% higher at this sparsity."),
        (
            {"status": "right-censored"},
            "A lower bound: the perplexity at the last measured point is still at most 1% higher.",
        ),
        (
            {"status": "left-censored"},
            "The perplexity is more than 1% higher at every measured point. The value lies before the first one. "
            "Points of lower sparsity would locate it.",
        ),
        (
            {"first_crossing": 0.1},
            "The perplexity is 1% higher at this sparsity. The perplexity is first more than 1% higher at 10.0%.",
        ),
    ],
)
def test_interpretation_of_a_row(changes, text):
    results = by_perplexity(sites=("input",))
    findings = [comparison.headline for comparison in compute_findings(changed(results, **changes)).models]
    (row,) = make_critical_table(findings, results.retain).rows
    assert row.cells["Interpretation"] == text


def test_lower_bounds_of_the_terminal():
    text = terminal_text(changed(by_perplexity(), status="right-censored"))
    assert "≥ marks a lower bound: the perplexity at the last point is still at most 1% higher, or may be." in text


def test_page(tmp_path):
    page = write_report(by_perplexity(), tmp_path).read_text()
    text = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    assert f"The highest sparsity at which {CLAUSE}." in text
    assert "A perplexity 1% higher is a retention of 99.0%." in text
    assert "of the dense score" not in text
    assert "The score of the sparse model divided" not in text


def test_figures_of_the_page():
    results = by_perplexity(models=MODELS, tasks=("piqa", "average"))
    for figure in make_comparison_figures(results):
        assert DEFINITION in figure.notes[0], figure.name
    (site_figure,) = make_comparison_figures(by_perplexity())
    assert DEFINITION in site_figure.notes[0]
    curves = make_model_figures(by_perplexity(), read_profiles(by_perplexity()))[0].figures[0]
    assert curves.notes[0].startswith(f"The dashed line is the required retention, a {HIGHER} than that of the dense")


@pytest.mark.parametrize("kind", ["retention-by-site", "retention-by-size", "critical-over-size", "sites"])
def test_captions_of_publication_figures(kind):
    figures = make_publication_figures(by_perplexity(models=MODELS), References()).figures
    captions = [figure.description for figure in figures if figure.name.startswith(kind)]
    assert captions
    for caption in captions:
        assert HIGHER in caption and "of the dense score" not in caption
