"""The findings in English: the first sentence answers."""

from dataclasses import replace

import pandas as pd
import pytest

from sparsedial.report.summary_text import summarize, summarize_in_one_line
from tests.support.report_sample import sample, site_differences

MODELS = ("fam-100m", "fam-400m", "fam-2b")


def size_trends(**changes):
    """Return one row of the size trends, with some columns changed."""
    row = {
        "family": "fam",
        "rule": "top_p",
        "layers": None,
        "task": "average",
        "site": "input",
        "models": 3,
        "smallest": 1e8,
        "largest": 2e9,
        "slope": 0.08,
        "low": 0.05,
        "high": 0.11,
        "rising": 2,
        "steps": 2,
        "censored": 0,
        "verdict": "more",
    }
    return pd.DataFrame([row | changes])


def find_text(results, start):
    """Return the only text with this start."""
    (text,) = [text for text in summarize(results) if text.startswith(start)]
    return text


def test_one_model_is_answered_in_one_text(results):
    (text,) = summarize(results)
    assert text == (
        "SmolLM2-135M-Instruct on self_prediction: 39.0% (37.8–40.4%) of the intermediate activations can be dropped "
        "while at least 99% of the dense score is kept, the most of the 5 sites. The difference from all_inputs, the "
        "next site, is +16.0 percentage points (95% interval +13.4 to +18.6). The largest saving is at all_inputs: a "
        "runtime can skip 23.0% (21.8–24.4%) of the FFN's multiply-accumulates (MACs)."
    )


def test_one_site_is_not_compared():
    (text,) = summarize(sample(sites=("input",)))
    assert "sites" not in text
    assert text.endswith("A runtime can skip 12.0% (11.2–12.9%) of the FFN's multiply-accumulates (MACs).")


def test_several_models_start_with_the_range():
    first = summarize(sample(models=MODELS, tasks=("piqa", "average")))[0]
    assert first == (
        "Between 41.0% (fam-100m on average over the tasks) and 48.8% (fam-2b on average over the tasks) of the "
        "activations at the best site can be dropped while at least 99% of the dense score is kept."
    )


def test_nothing_measured_is_said():
    results = replace(sample(), critical=pd.DataFrame())
    assert summarize(results) == ["No critical sparsity could be computed, because no curve has valid trials."]


def test_sites_that_could_be_as_high_are_named():
    (text,) = summarize(sample(sites=("input", "up", "gate")))
    assert "19.0% (17.8–20.4%) of the up activations" in text
    assert "Within the 95% intervals of the differences, the critical sparsity of input could be as high." in text


def test_right_censored_values_are_at_least(results):
    (text,) = summarize(replace(results, critical=results.critical.assign(status="right-censored")))
    assert "at least 39.0% (37.8–40.4%) of the intermediate activations" in text
    assert "can skip at least 23.0%" in text


def test_a_wide_interval_starts_with_its_lower_end(results):
    critical = results.critical.assign(is_wide=True, low=0.01, high=0.73, high_censored=True, examples_needed=1284)
    (text,) = summarize(replace(results, critical=critical))
    assert text.startswith(
        "SmolLM2-135M-Instruct on self_prediction: at least 1.0% of the intermediate activations can be dropped while "
        "at least 99% of the dense score is kept (97.5% confidence), and possibly more than at the last measured "
        "point. The estimate is 39.0%, the most of the 5 sites. At least 900 more examples and measurements at higher "
        "sparsity are needed to narrow the interval to ±2 percentage points."
    )
    assert text.endswith("a runtime can skip at least 21.8% of the FFN's multiply-accumulates (MACs).")


def test_another_site_with_a_higher_estimate_is_named(results):
    low = results.critical["low"].where(results.critical["site"] != "intermediate", 0.0)
    (text,) = summarize(replace(results, critical=results.critical.assign(low=low)))
    assert ": 23.0% (21.8–24.4%) of the all_inputs activations can be dropped" in text
    assert "The highest estimate is 39.0% (0.0–40.4%), at intermediate." in text
    assert "the most of" not in text


def test_a_bracket_without_an_estimate_is_a_finding(results):
    critical = results.critical.assign(sparsity=None, low=0.0, high=0.78, is_wide=True, needs_points=True)
    text = summarize(replace(results, critical=critical[critical["site"] == "input"]))[0]
    assert text.startswith("SmolLM2-135M-Instruct on self_prediction: the data do not decide")
    (text,) = summarize(replace(results, critical=critical))
    assert "at any of the 5 sites" in text and "between 0 and 78.0%" in text and "estimate" not in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"is_wide": True},
            "At least 16.8% (fam-100m on self_prediction) to 20.4% (fam-2b on self_prediction) of the activations at "
            "the best site can be dropped while at least 99% of the dense score is kept (97.5% confidence). The "
            "highest estimate of a site is 18.0% (fam-100m on self_prediction) to 21.6% (fam-2b on "
            "self_prediction).",
        ),
        (
            {"low": [0.0, 0.1, 0.0], "is_wide": True, "examples_needed": 1284},
            "At least 10.0% (fam-400m on self_prediction) of the activations at the best site can be dropped while at "
            "least 99% of the dense score is kept (97.5% confidence). The highest estimate of a site is 19.8% "
            "(fam-400m on self_prediction). The data do not decide for "
            "fam-100m on self_prediction and fam-2b on self_prediction: no measured point is shown to meet this "
            "condition. At least 900 more examples are needed to narrow all of these intervals to ±2 percentage "
            "points.",
        ),
        (
            {"low": 0.0, "sparsity": None, "is_wide": True, "needs_points": True},
            "The data do not decide how many activations can be dropped while at least 99% of the dense score is kept: "
            "no measured point is shown to meet this condition. Measurements at more values of p are needed to narrow "
            "all of these intervals to ±2 percentage points.",
        ),
    ],
)
def test_the_range_over_models_leads_with_lower_ends_where_intervals_are_wide(changes, text):
    results = sample(models=MODELS, sites=("input",))
    results = replace(results, critical=results.critical.assign(**{"examples_needed": 384, **changes}))
    assert summarize(results)[0] == text
    assert summarize_in_one_line(results) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "larger models tolerate more sparsity at input (+8.0, +5.0 to +11.0)"),
        (
            {"slope": -0.08, "low": -0.11, "high": -0.05, "verdict": "less"},
            "larger models tolerate less sparsity at input (−8.0, −11.0 to −5.0)",
        ),
        ({"low": -0.01, "verdict": "unclear"}, "there is no clear trend at input (+8.0, −1.0 to +11.0)"),
        ({"low": None, "high": None, "verdict": "unclear"}, "input (+8.0, no interval)"),
        ({"censored": 1}, "Some of these critical sparsities, or the upper ends of their intervals, are lower bounds"),
    ],
)
def test_size_trends_are_described_as_computed(changes, text):
    results = replace(sample(models=MODELS), trends=size_trends(**changes))
    sentence = find_text(results, "Family fam")
    assert sentence.startswith("Family fam (100 M to 2 B parameters) on average over the tasks: ")
    assert text in sentence


def test_the_best_site_is_counted_over_models():
    results = sample(models=MODELS, sites=("up", "gate", "intermediate"))
    sentence = find_text(results, "Of 3 models")
    assert "intermediate in 3 (3 of them beyond the 95% intervals of the differences)" in sentence
    critical = results.critical.copy()
    is_close = (critical["model"] == "fam-2b") & (critical["site"] == "up")
    critical.loc[is_close, ["sparsity", "low", "high"]] = [0.9, 0.2, 0.95]
    results = replace(results, critical=critical, differences=site_differences(critical))
    sentence = find_text(results, "Of 3 models")
    assert "intermediate in 2 (2 of them beyond the 95% intervals of the differences)" in sentence
    assert "up in 1 (0 of them beyond the 95% intervals of the differences)" in sentence


def test_rules_and_layers_are_named_where_they_differ():
    results = sample(models=("a",), sites=("input",))
    other = results.critical.assign(rule="top_k", layers=[[0, 1]])
    texts = summarize(replace(results, critical=pd.concat([results.critical.assign(layers=None), other])))
    assert texts[1].startswith("a on self_prediction under top_p: ")
    assert texts[2].startswith("a on self_prediction under top_k in layers 0–1: ")
