"""Sentences about one critical sparsity."""

import pytest

from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.report.row_interpretation import interpret_row
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
            "Retention is below 99% at every measured point. The value lies before the first one.",
        ),
        (
            {"first_crossing": 0.1},
            "The retention curve crosses 99% at this sparsity. Retention first falls below 99% at 10.0%.",
        ),
        ({"sparsity": None}, "The critical sparsity is not known."),
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
    ],
)
def test_status_and_precision_are_explained(changes, text):
    assert interpret_changed(**changes) == text
