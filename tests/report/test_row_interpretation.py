"""Sentences about one critical sparsity."""

import pytest

from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.report.row_interpretation import describe_wide_rows, interpret_row
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
        (
            {"status": "right-censored", "sparsity": 1.0, "low": 1.0, "high": 1.0, "high_censored": True}
            | {"first_crossing": None, "is_wide": True},
            "Retention is still at least 99% at 100% sparsity.",
        ),
        ({"status": "right-censored"}, "A lower bound: retention at the last measured point is still at least 99%."),
        (
            {"status": "left-censored"},
            "Retention is below 99% at every measured point. The value lies before the first one. "
            "Points of lower sparsity would locate it.",
        ),
        (
            {"first_crossing": 0.1},
            "The retention curve crosses 99% at this sparsity. Retention is first below 99% at 10.0%.",
        ),
        ({"sparsity": None, "low": None}, "The critical sparsity is not known."),
        (
            {"sparsity": None, "low": 0.0, "high": 0.78, "first_crossing": None, "examples_needed": 0}
            | {"is_wide": True, "needs_points": True},
            "⚠ Not decided: no measured point is shown to keep 99%. "
            "The points around the critical sparsity are too far apart for an estimate. "
            "The 95% interval is wider than ±2 percentage points: measurements at more values of p are needed.",
        ),
        (
            {"is_wide": True, "examples_needed": 1284},
            "The retention curve crosses 99% at the estimate. The 95% interval is wider than ±2 percentage points: "
            "about 900 more examples are needed.",
        ),
        (
            {"is_wide": True, "examples_needed": 1284, "metric": "mean of 2", "precision": 0.015},
            "The retention curve crosses 99% at the estimate. The 95% interval is wider than ±1.5 percentage points: "
            "about 900 more examples over all tasks are needed.",
        ),
        (
            {"is_wide": True, "high_censored": True, "examples_needed": 1284},
            "The retention curve crosses 99% at the estimate. "
            "The 95% interval may be wider than ±2 percentage points: "
            "at least 900 more examples and measurements at higher sparsity are needed.",
        ),
        (  # more examples do not help where the curve itself is cut off
            {"status": "right-censored", "is_wide": True, "high_censored": True, "examples_needed": 1284},
            "A lower bound: retention at the last measured point is still at least 99%. "
            "The 95% interval may be wider than ±2 percentage points: measurements at higher sparsity are needed.",
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


def describe_rows(**changes):
    """Describe the rows of the sample, with some columns changed."""
    critical = sample(sites=("input", "up"), points=1, layers=0).critical.assign(**{"is_wide": True, **changes})
    return describe_wide_rows(read_critical_findings(critical).headline, 0.99)


def test_the_advice_for_several_rows_helps_all_of_them():
    (note,) = describe_rows(examples_needed=1284, high_censored=[False, True], status=["crossed", "right-censored"])
    assert note == (
        "at least: the lower end of a 95% interval, for an interval that is, or may be, wider than ±2 percentage "
        "points. p and skippable MACs are those at the lower end. At least 900 more examples and measurements at "
        "higher sparsity are needed to narrow all of these intervals to ±2 percentage points."
    )
    (cut_off,) = describe_rows(examples_needed=1284, high_censored=True, status="right-censored")
    assert "examples" not in cut_off


def test_rows_that_are_not_decided_have_a_note_of_their_own():
    wide, undecided = describe_rows(low=[0.15, 0.0], examples_needed=384, precision=[0.02, 0.01])
    assert wide.startswith("at least: ") and "±2 percentage points" in wide
    assert undecided.startswith("⚠ not decided: no measured point is shown to keep 99%.")
    (both,) = describe_rows(precision=[0.02, 0.01], needs_points=True)
    assert "the precision that their study requests" in both
    assert describe_rows(is_wide=False) == []
