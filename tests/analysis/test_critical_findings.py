"""What each row of the critical sparsities says."""

import pandas as pd
import pytest

from sparsedial.analysis.critical_findings import read_critical_findings
from sparsedial.analysis.estimates import Estimate
from tests.support.report_sample import sample


def find_site(**changes):
    """Return the finding of a row of the sample, with some columns changed."""
    (finding,) = read_critical_findings(sample(sites=("input",)).critical.assign(**changes)).headline
    return finding


def test_a_row_is_read_with_its_numbers():
    finding = find_site()
    assert (finding.model, finding.site, finding.layers) == ("SmolLM2-135M-Instruct", "input", "all")
    assert finding.sparsity == Estimate(0.18, pytest.approx(0.168), pytest.approx(0.194))
    assert finding.skippable_macs.value == pytest.approx(0.12)
    assert (finding.p, finding.dense_score, finding.examples) == (0.97, 0.4127, 384)
    assert not finding.is_wide and finding.answer == "estimate" and not finding.is_average


@pytest.mark.parametrize(("first_crossing", "reported"), [(0.18, None), (0.1803, None), (0.1, 0.1), (None, None)])
def test_an_earlier_crossing_is_reported_if_it_is_visible(first_crossing, reported):
    assert find_site(first_crossing=first_crossing).first_crossing == reported


@pytest.mark.parametrize(
    ("needed", "examples", "additional"),
    [(1284, 384, 900), (384, 384, None), (100, 384, None), (None, 384, None), (500, None, 500), (pd.NA, 384, None)],
)
def test_additional_examples_are_those_that_are_needed_beyond_the_scored_ones(needed, examples, additional):
    assert find_site(examples_needed=needed, examples=examples).additional_examples == additional


def test_the_precision_is_the_one_that_the_study_requests():
    assert find_site().precision == find_site(precision=None).precision == 0.02
    assert find_site(precision=0.015).precision == 0.015


def test_a_right_censored_row_is_a_lower_bound():
    finding = find_site(status="right-censored", high_censored=True)
    assert finding.sparsity.is_lower_bound and finding.sparsity.is_high_censored
    assert finding.skippable_macs.is_lower_bound


def test_one_model_is_shown_whole_and_several_by_their_averages():
    one = read_critical_findings(sample(tasks=("piqa", "average"), sites=("input",)).critical)
    assert [finding.task for finding in one.headline] == ["average", "piqa"] and one.others == ()
    several = read_critical_findings(sample(models=("a", "b"), tasks=("piqa", "average"), sites=("input",)).critical)
    assert [(finding.model, finding.task) for finding in several.headline] == [("a", "average"), ("b", "average")]
    assert [(finding.model, finding.task) for finding in several.others] == [("a", "piqa"), ("b", "piqa")]


def test_no_rows_give_no_findings():
    findings = read_critical_findings(pd.DataFrame())
    assert findings.headline == () and findings.others == ()
