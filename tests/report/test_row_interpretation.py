"""Sentences about one critical sparsity."""

import pytest

from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.report.row_interpretation import describe_wide_intervals, interpret_row
from tests.support.report_sample import sample


def interpret_changed(**changes):
    """Interpret the row of the sample, with some columns changed."""
    critical = sample(sites=("input",), points=1, layers=0).critical.assign(**changes)
    (finding,) = read_critical_findings(critical).headline
    return interpret_row(finding, 0.99)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "The retention curve crosses 99% at this sparsity."),
        ({"status": "right-censored"}, "A lower bound: retention at the last measured point is still at least 99%."),
        (
            {"status": "left-censored"},
            "Retention is below 99% at every measured point. The value lies before the first one. "
            "Points of lower sparsity would locate it.",
        ),
        (
            {"first_crossing": 0.1},
            "The retention curve crosses 99% at this sparsity. Retention first falls below 99% at 10.0%.",
        ),
        ({"sparsity": None, "low": None}, "The critical sparsity is not known."),
        (
            {"sparsity": None, "low": 0.0, "high": 0.78, "first_crossing": None, "examples_needed": 0}
            | {"is_wide": True, "needs_points": True},
            "The points around the critical sparsity are too far apart for an estimate. "
            "⚠ The 95% interval is wider than 10 percentage points. "
            "Measurements at more values of p would narrow it to ±2 percentage points.",
        ),
        (
            {"is_wide": True, "examples_needed": 1284},
            "The retention curve crosses 99% at this sparsity. ⚠ The 95% interval is wider than 10 percentage points. "
            "About 900 more examples would narrow it to ±2 percentage points.",
        ),
        (
            {"examples_needed": 1284, "metric": "mean of 2"},
            "The retention curve crosses 99% at this sparsity. "
            "About 900 more examples over all tasks would narrow the 95% interval to ±2 percentage points.",
        ),
        (
            {"is_wide": True, "high_censored": True, "examples_needed": 1284},
            "The retention curve crosses 99% at this sparsity. "
            "⚠ The 95% interval may be wider than 10 percentage points. "
            "At least 900 more examples would narrow it to ±2 percentage points.",
        ),
        (
            {"is_wide": True, "high_censored": True, "examples_needed": None},
            "The retention curve crosses 99% at this sparsity. "
            "⚠ The 95% interval may be wider than 10 percentage points. "
            "Measurements at higher sparsity are needed to narrow it to ±2 percentage points.",
        ),
        (  # more examples do not help where the curve itself is cut off
            {"status": "right-censored", "is_wide": True, "high_censored": True, "examples_needed": 1284},
            "A lower bound: retention at the last measured point is still at least 99%. "
            "⚠ The 95% interval may be wider than 10 percentage points. "
            "Measurements at higher sparsity are needed to narrow it to ±2 percentage points.",
        ),
        (  # neither does a higher sparsity where the rule has none
            {"status": "right-censored", "high_censored": True, "examples_needed": None, "is_last_sparsest": True},
            "Retention is still at least 99% at the highest sparsity that the rule allows.",
        ),
        (
            {"status": "right-censored", "low": None, "high": None, "examples_needed": None},
            "A lower bound: retention at the last measured point is still at least 99%.",
        ),
        (
            {"status": "at chance", "sparsity": None, "examples_needed": 47485, "is_wide": True, "chance": 0.25},
            "There is nothing to retain: the dense score 0.4127 cannot be told from chance (0.25).",
        ),
    ],
)
def test_status_and_precision_are_explained(changes, text):
    assert interpret_changed(**changes) == text


def test_each_of_several_wide_intervals_gets_the_advice_that_helps_it():
    critical = sample(sites=("input", "up"), points=1, layers=0).critical
    wide = critical.assign(is_wide=True, examples_needed=1284, high_censored=[False, True])
    few_examples, cut_off = read_critical_findings(wide.assign(status=["crossed", "right-censored"])).headline
    text = describe_wide_intervals([few_examples, cut_off])
    assert "About 900 more examples would narrow some of them" in text
    assert text.endswith("The others need measurements at higher sparsity.")
    assert "examples" not in describe_wide_intervals([cut_off])
    assert "higher sparsity" not in describe_wide_intervals([few_examples])
