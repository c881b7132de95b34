"""The sentence that answers how many activations can be dropped."""

import pytest

from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.report.droppable_share import (
    describe_droppable_share,
    format_droppable_macs,
    format_droppable_p,
    format_droppable_share,
)
from tests.support.report_sample import sample

CONDITION = " while 99% of the score is kept"


def describe(**changes):
    """Describe the row of the sample, with some columns changed."""
    critical = sample(sites=("input",), points=1, layers=0).critical.assign(**changes)
    (finding,) = read_critical_findings(critical).headline
    return " ".join(describe_droppable_share(finding, CONDITION, ", the most of the 5 sites"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"sparsity": 0.2, "low": 0.182, "high": 0.221, "first_crossing": 0.2},
            "20.0% (18.2–22.1%) of the input activations can be dropped while 99% of the score is kept, the most of "
            "the 5 sites.",
        ),
        (  # a dip is not hidden by a narrow interval
            {"sparsity": 0.2, "low": 0.182, "high": 0.221, "first_crossing": 0.1},
            "20.0% (18.2–22.1%) of the input activations can be dropped while 99% of the score is kept, the most of "
            "the 5 sites; retention first falls below the threshold at 10.0%.",
        ),
        (
            {"sparsity": 0.25, "low": 0.182, "high": 0.402, "first_crossing": 0.25, "is_wide": True, "p_low": 0.96},
            "at least 18.2% of the input activations can be dropped at p = 0.96 while 99% of the score is kept (97.5% "
            "confidence), and less than 40.2%. The estimate is 25.0%, the most of the 5 sites.",
        ),
        (  # the lower end, not the last point, is what can be relied on
            {"sparsity": 0.98, "low": 0.96, "high": 0.98, "status": "right-censored", "high_censored": True}
            | {"first_crossing": None, "is_last_sparsest": True},
            "at least 96.0% of the input activations can be dropped while 99% of the score is kept (97.5% confidence), "
            "and possibly more than at the last measured point. The estimate is at least 98.0%, the most of the 5 "
            "sites.",
        ),
        (  # there is no more than everything
            {"sparsity": 1.0, "low": 1.0, "high": 1.0, "status": "right-censored", "high_censored": True}
            | {"first_crossing": None, "is_wide": True},
            "100.0% (100.0–100.0%) of the input activations can be dropped while 99% of the score is kept, the most of "
            "the 5 sites.",
        ),
        (
            {"sparsity": 1.0, "low": 0.96, "high": 1.0, "status": "right-censored", "high_censored": True}
            | {"first_crossing": None, "is_wide": True, "is_last_sparsest": True},
            "at least 96.0% of the input activations can be dropped while 99% of the score is kept (97.5% confidence), "
            "and possibly all of them. The estimate is 100.0%, the most of the 5 sites.",
        ),
        (
            {"sparsity": 0.3, "low": 0.0, "high": 0.78, "first_crossing": 0.1, "is_wide": True}
            | {"examples_needed": 1384, "needs_points": True, "precision": 0.015},
            "the data do not decide how many of the input activations can be dropped while 99% of the score is kept: "
            "it is between 0 and 78.0%, with 384 examples; at least 1,000 more examples and measurements at more "
            "values of p are needed to narrow the interval to ±1.5 percentage points. The estimate is 30.0%, the most "
            "of the 5 sites; retention first falls below the threshold at 10.0%.",
        ),
        (
            {"sparsity": None, "low": 0.0, "high": 0.78, "first_crossing": None, "examples_needed": 0}
            | {"is_wide": True, "needs_points": True},
            "the data do not decide how many of the input activations can be dropped while 99% of the score is kept: "
            "it is between 0 and 78.0%, with 384 examples; measurements at more values of p are needed to narrow the "
            "interval to ±2 percentage points.",
        ),
        (
            {"sparsity": 0.6, "low": 0.0, "high": 0.6, "first_crossing": 0.6, "status": "right-censored"}
            | {"is_wide": True, "high_censored": True},
            "the data do not decide how many of the input activations can be dropped while 99% of the score is kept: "
            "it is between 0 and 100%, with 384 examples; measurements at higher sparsity are needed to narrow the "
            "interval to ±2 percentage points. The estimate is at least 60.0%, the most of the 5 sites.",
        ),
        (  # a narrow interval from 0 does not decide whether any activation can be dropped
            {"sparsity": 0.01, "low": 0.0, "high": 0.03, "first_crossing": 0.01},
            "the data do not decide how many of the input activations can be dropped while 99% of the score is kept: "
            "it is between 0 and 3.0%, with 384 examples; more examples or measurements at lower sparsity are needed "
            "to show that any of them can be dropped. The estimate is 1.0%, the most of the 5 sites.",
        ),
    ],
)
def test_the_lower_end_leads_where_the_interval_is_wide(changes, text):
    assert describe(**{"examples_needed": None, **changes}) == text


def test_without_an_interval_there_is_the_estimate():
    text = describe(sparsity=0.2, low=None, high=None, first_crossing=0.2, examples_needed=None)
    assert text.startswith("20.0% of the input activations can be dropped")


def test_several_undecided_sites_are_described_together():
    critical = sample(sites=("input",)).critical.assign(sparsity=None, low=0.0, high=0.78, is_wide=True)
    (finding,) = read_critical_findings(critical).headline
    (answer,) = describe_droppable_share(finding, CONDITION, site_count=5)
    assert answer.startswith(
        "the data do not decide how many of the activations at any of the 5 sites can be dropped while 99% of the "
        "score is kept: it is between 0 and 78.0% at input, with 384 examples; "
    )


def test_the_first_sentence_says_what_would_decide():
    critical = sample(sites=("input",)).critical.assign(low=0.0, high=0.78, is_wide=True, examples_needed=1384)
    (finding,) = read_critical_findings(critical).headline
    answer, *others = describe_droppable_share(finding, CONDITION)
    assert "do not decide" in answer and "1,000 more examples" in answer
    assert "needed" not in " ".join(others)


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({}, ("18.0% (16.8–19.4%)", "0.97", "12.0% (11.2–12.9%)")),
        ({"is_wide": True}, ("at least 16.8%, estimate 18.0% (16.8–19.4%)", "0.99", "at least 11.2%")),
        ({"is_wide": True, "sparsity": None}, ("at least 16.8% (16.8–19.4%)", "0.99", "at least 11.2%")),
        (
            {"is_wide": True, "high_censored": True, "status": "right-censored"},
            ("at least 16.8%, estimate ≥ 18.0% (16.8–≥19.4%)", "0.99", "at least 11.2%"),
        ),
        ({"low": 0.0, "skippable_macs_low": 0.0}, ("between 0 and 19.4%, estimate 18.0%", "–", "0.0–12.9%")),
        ({"low": 0.0, "sparsity": None}, ("between 0 and 19.4%", "–", "11.2–12.9%")),
        ({"low": 0.0, "high_censored": True}, ("between 0 and 100%, estimate 18.0%", "–", "11.2–≥12.9%")),
        ({"status": "at chance", "sparsity": None, "low": None}, ("nothing to retain", "0.97", "12.0% (11.2–12.9%)")),
    ],
)
def test_all_cells_of_a_row_belong_to_the_number_that_answers(changes, cells):
    critical = sample(sites=("input",)).critical.assign(**{"p_low": 0.99, **changes})
    (finding,) = read_critical_findings(critical).headline
    assert (format_droppable_share(finding), format_droppable_p(finding), format_droppable_macs(finding)) == cells
