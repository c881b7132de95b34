"""The comparison with references as a table and as lines."""

from dataclasses import replace

import pandas as pd

from sparsedial.analysis.references.comparison import compare_with_references
from sparsedial.analysis.references.records import OVERLAP_PREVIOUS, ReferenceValue
from sparsedial.report.html_page import render_page
from sparsedial.report.reference_table import describe_comparison, make_reference_table
from tests.support.references import reference, value
from tests.support.report_sample import sample

ONE = {"models": ("org/fam-100m",), "tasks": ("piqa",), "sites": ("input",), "points": 2, "layers": 1}


def compare(*values, **columns):
    """Return a comparison with some values. Here, 20% (18–23%) was measured."""
    results = sample(**ONE)
    row = {"sparsity": 0.2, "low": 0.18, "high": 0.23} | columns
    critical = results.critical.assign(**row, layers=None)
    return compare_with_references(replace(results, critical=critical), [reference(*values)], include_missing=True)


def test_a_row_has_both_values_their_difference_and_what_it_means():
    table = make_reference_table(compare(value(number=0.25, is_exact=False)))
    assert table.rows == [
        ["input", "piqa", "20.0% (18.0–23.0%)", "~25.0%", "−5.0 (−7.0 to −2.0)", "outside the interval"]
    ]
    assert table.groups == ["theirs · fam-100m (org/fam-100m)"]


def test_open_ends_and_missing_values_are_marked():
    rows = make_reference_table(
        compare(value(number=0.3), value("up"), high_censored=True, status="right-censored")
    ).rows
    assert rows[0][2:] == ["≥ 20.0% (18.0–≥23.0%)", "30.0%", "−10.0 (at least −12.0)", "inside the interval"]
    assert rows[1][2:] == ["–", "20.0%", "–", "not measured here"]


def test_lower_bounds_of_a_reference_are_marked():
    bound = value(number=0.1, low=0.05, high=0.1, is_lower_bound=True, is_high_censored=True)
    (row,) = make_reference_table(compare(bound)).rows
    assert row[3:] == ["≥ 10.0% (5.0–≥10.0%)", "+10.0 (at most +18.0)", "inside the interval"]
    (row,) = make_reference_table(compare(bound, high_censored=True, status="right-censored")).rows
    assert row[4] == "–"


def test_rows_of_a_model_are_together():
    values = [value(site, model=model) for site in ("input", "up") for model in ("fam-100m", "fam-9b")]
    comparison = compare_with_references(sample(**ONE), [reference(*values, models=("fam-100m", "fam-9b"))], True)
    table = make_reference_table(comparison)
    assert [row[0] for row in table.rows] == ["input", "up", "input", "up"]
    assert [group.split(" · ")[1].split(" (")[0] for group in table.groups] == ["fam-100m"] * 2 + ["fam-9b"] * 2


def test_ranges_of_the_overlap_are_no_percentages():
    range_of_overlap = ReferenceValue("fam-100m", "x", OVERLAP_PREVIOUS, low=0.6, high=0.7, is_exact=False)
    (line,) = describe_comparison(compare(range_of_overlap))
    assert line == "fam-100m: –; theirs: ~0.6–0.7; difference –; not measured here"


def test_a_mean_overlap_is_compared_with_the_range():
    results = sample(**ONE)
    label = {"model": "fam-100m", "rule": "top_p", "layers": None, "task": "denoising", "site": "input"}
    step = label | {"vector": "input", "state": "all", "step": 1, "overlap_previous": 0.8}
    known = reference(ReferenceValue("fam-100m", "x", OVERLAP_PREVIOUS, low=0.6, high=0.7))
    comparison = compare_with_references(replace(results, step_overlap=pd.DataFrame([step])), [known])
    expected = "0.80; theirs: 0.6–0.7; difference –; outside the range (mean over 1 steps)"
    assert describe_comparison(comparison) == [f"fam-100m, input, denoising: {expected}"]


def test_the_page_shows_the_comparison_only_if_there_is_one():
    results = sample(**ONE)
    assert "Comparison with references" not in render_page(results)
    comparison = compare_with_references(results, [reference(value(), name="<b>their</b>")])
    page = render_page(replace(results, reference=comparison))
    assert "Comparison with references" in page and "&lt;b&gt;their" in page and "<b>their" not in page
    assert 'id="sites"' in page
