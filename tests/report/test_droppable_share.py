"""The sentence that answers how many activations can be dropped."""

import pytest

from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.report.droppable_share import describe_droppable_share
from tests.support.report_sample import sample

CONDITION = " while 99% of the score is kept"


def describe(**changes):
    """Describe the row of the sample, with some columns changed."""
    critical = sample(sites=("input",), points=1, layers=0).critical.assign(**changes)
    (finding,) = read_critical_findings(critical).headline
    return describe_droppable_share(finding, CONDITION, ", the most of the 5 sites")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"sparsity": 0.2, "low": 0.182, "high": 0.221, "first_crossing": 0.2},
            "20.0% (18.2–22.1%) of the input activations can be dropped while 99% of the score is kept, the most of "
            "the 5 sites.",
        ),
        (
            {"sparsity": 0.25, "low": 0.182, "high": 0.402, "first_crossing": 0.25, "is_wide": True},
            "at least 18.2% of the input activations can be dropped while 99% of the score is kept (97.5% confidence), "
            "and less than 40.2%. The estimate is 25.0%, the most of the 5 sites.",
        ),
        (
            {
                "sparsity": 0.3,
                "low": 0.0,
                "high": 0.78,
                "first_crossing": 0.1,
                "is_wide": True,
                "examples_needed": 1384,
            },
            "the data do not decide how many of the input activations can be dropped while 99% of the score is kept: "
            "with 384 examples, the 95% interval reaches from 0% to 78.0%. The estimate is 30.0%, the most of the 5 "
            "sites; retention first falls below the threshold at 10.0%. About 1,000 more examples would narrow the "
            "interval to ±2 percentage points.",
        ),
        (
            {"sparsity": None, "low": 0.0, "high": 0.78, "first_crossing": None, "examples_needed": 0}
            | {"is_wide": True, "needs_points": True},
            "the data do not decide how many of the input activations can be dropped while 99% of the score is kept: "
            "with 384 examples, the 95% interval reaches from 0% to 78.0%. Measurements at more values of p would "
            "narrow the interval to ±2 percentage points.",
        ),
        (
            {"sparsity": 0.6, "low": 0.0, "high": 0.6, "first_crossing": 0.6, "status": "right-censored"}
            | {"is_wide": True, "high_censored": True, "examples_needed": None},
            "the data do not decide how many of the input activations can be dropped while 99% of the score is kept: "
            "with 384 examples, no measured point is shown to keep the score, and the last one is not shown to lose "
            "it. The estimate is at least 60.0%, the most of the 5 sites. Measurements at higher sparsity would narrow "
            "the interval to ±2 percentage points.",
        ),
    ],
)
def test_the_lower_end_leads_where_the_interval_is_wide(changes, text):
    assert describe(**{"examples_needed": None, **changes}) == text


def test_without_an_interval_there_is_the_estimate():
    text = describe(sparsity=0.2, low=None, high=None, first_crossing=0.2, examples_needed=None)
    assert text.startswith("20.0% of the input activations can be dropped")
