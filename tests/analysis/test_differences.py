"""Sites that are compared on the same examples."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from sparsedial.analysis.differences import find_differences
from sparsedial.analysis.finding_records import Conditions
from sparsedial.analysis.findings import compute_findings
from sparsedial.analysis.results import compute_results
from sparsedial.report.summary_text import summarize
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from tests.support.made_up_studies import LARGE, SMALL, change_results, study

SITES = ("input", "gate")


@pytest.fixture(scope="module")
def correlated(tmp_path_factory):
    """Results whose two sites lose the same examples, the gate at a slightly higher sparsity."""
    store = study(tmp_path_factory.mktemp("study"), [SMALL], ("gsm8k",), SITES)
    spec = StudySpec.from_json(store.read_spec())
    assert spec.sites == SITES
    other = Store.create(tmp_path_factory.mktemp("correlated"))
    for path in ("study.json", "resolved.json"):
        (other.folder / path).write_bytes((store.folder / path).read_bytes())
    generator = np.random.default_rng(0)
    dense = generator.uniform(0.4, 1.0, 400)
    tolerance = generator.uniform(0.0, 2.0, 400)
    for record in store.trials():
        scores = dense
        result = dataclasses.replace(record.result, examples=400)
        if not record.identity.is_dense:
            distance = 1 - record.p
            sparsity = np.sqrt(distance)
            late = 0.02 if record.identity.site == "gate" else 0.0
            scores = dense * (1 - 0.3 * np.clip(sparsity - late, 0, 1) ** 2 * tolerance)
            result = dataclasses.replace(result, dropped=round(1000 * sparsity), total=1000)
        result = dataclasses.replace(result, score=float(scores.mean()))
        other.write_trial(dataclasses.replace(record, result=result), scores)
    return compute_results(other)


def test_the_interval_of_the_difference_decides_which_site_could_be_as_high(correlated):
    critical = correlated.critical.set_index("site")
    (row,) = correlated.differences.to_dict("records")
    assert (row["comparison"], row["site"], row["other"], row["verdict"]) == ("site", "input", "gate", "unclear")
    assert row["same_examples"]
    assert row["low"] <= row["difference"] <= row["high"]
    assert critical.loc["input", "high"] >= critical.loc["gate", "low"]
    (model,) = compute_findings(correlated).models
    assert (model.best.site, model.lead.other, model.rivals) == ("gate", "input", ("input",))
    clear = correlated.differences.assign(low=-0.05, high=-0.01, verdict="less")
    (model,) = compute_findings(dataclasses.replace(correlated, differences=clear)).models
    assert model.rivals == ()  # although the intervals of the two sites overlap
    (model,) = compute_findings(dataclasses.replace(correlated, differences=pd.DataFrame())).models
    assert (model.lead, model.rivals, model.untested) == (None, (), 1)


def test_the_report_states_the_difference_and_its_interval(correlated):
    text = " ".join(summarize(correlated))
    assert "The difference from input, the next site, is +" in text
    assert "percentage points (95% interval " in text


def test_a_difference_is_read_in_both_directions():
    label = {"model": "m", "rule": "top_p", "layers": "all", "task": "t"}
    numbers = {"difference": 0.1, "low": 0.05, "high": 0.2, "verdict": "more", "same_examples": True}
    table = pd.DataFrame([{"comparison": "site", **label, "site": "input", "other": "gate", **numbers}])
    forward = find_differences(table, "site", {**label, "site": "input"})["gate"]
    backward = find_differences(table, "site", {**label, "site": "gate"})["input"]
    assert (forward.value, forward.low, forward.high, forward.verdict) == (0.1, 0.05, 0.2, "more")
    assert (backward.value, backward.low, backward.high, backward.verdict) == (-0.1, -0.2, -0.05, "less")
    assert forward.is_more and not backward.is_more
    assert find_differences(table, "site", {**label, "task": "u", "site": "gate"}) == {}
    assert find_differences(table, "rule", {**label, "site": "input"}) == {}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Results of two models, two sites, two rules and two tasks, one of which samples its examples from the model."""
    folder = tmp_path_factory.mktemp("several")
    return compute_results(study(folder, [SMALL, LARGE], ("piqa", "self_prediction"), rules=("top_p", "top_k")))


def test_curves_are_compared_if_they_differ_in_the_site_the_rule_or_the_model_only(several):
    differences = several.differences
    counts = differences.groupby(["comparison", "task"]).size()
    assert set(counts) == {4}  # two values of each of the two conditions that are the same
    names = {"site": "intermediate", "rule": "top_p", "model": "fam-1b"}
    for kind, rows in differences.groupby("comparison"):
        assert set(rows["other"]) == {names[kind]} and names[kind] not in set(rows[kind])


def test_examples_are_the_same_unless_they_are_sampled_from_another_model(several):
    differences = several.differences.set_index(["comparison", "task"])
    independent = differences[~differences["same_examples"]]
    assert set(independent.index) == {("model", "self_prediction")} and len(independent) == 4


def test_the_interval_uses_the_correlation_only_of_the_same_examples(correlated_models):
    """With the same scores of both models, the task with data has the narrower interval."""
    differences = correlated_models.differences.set_index("task")
    widths = differences["high"] - differences["low"]
    assert widths["piqa"] < widths["self_prediction"]
    critical = correlated_models.critical.set_index(["task", "model"])
    high = critical.loc["self_prediction", "high"]
    low = critical.loc["self_prediction", "low"]
    assert widths["self_prediction"] <= high["fam-100m"] - low["fam-1b"] + high["fam-1b"] - low["fam-100m"]


@pytest.fixture(scope="module")
def correlated_models(tmp_path_factory):
    """Results of two models that lose the same examples, on a task with data and on one without."""
    values = (0.97, 0.965, 0.96, 0.956, 0.953, 0.95, 0.947, 0.944, 0.94, 0.935, 0.93)
    store = study(tmp_path_factory.mktemp("m"), [SMALL, LARGE], ("piqa", "self_prediction"), ("input",), values)
    tolerance = np.random.default_rng(0).uniform(0.0, 2.0, 200)
    dense = np.random.default_rng(1).uniform(0.4, 1.0, 200)

    def change(_scores, record):
        if record.identity.is_dense:
            return dense
        return dense * (1 - 0.2 * (1 - record.p) * tolerance)

    for task in ("piqa", "self_prediction"):
        change_results(store, task, change)
    return compute_results(store)


def test_models_that_differ_in_the_number_of_examples_are_compared_as_independent(tmp_path):
    stores = []
    for number, (model, limit) in enumerate([(SMALL, 200), (LARGE, 100)]):
        stores.append(study(tmp_path / str(number), [model], ("piqa",), ("input",), examples=limit, limit=limit))
    (row,) = compute_results(stores).differences.to_dict("records")
    assert (row["comparison"], row["task"], row["same_examples"]) == ("model", "piqa", False)


def test_findings_compare_models_and_rules_by_the_averages(tmp_path):
    results = compute_results(study(tmp_path, [SMALL, LARGE], rules=("top_p", "top_k")))
    pairs = compute_findings(results).pairs
    assert [(group.kind, group.model, group.scope) for group in pairs] == [
        ("model", None, Conditions("average", "top_k")),
        ("model", None, Conditions("average", "top_p")),
        ("rule", "fam-100m", Conditions("average")),
        ("rule", "fam-1b", Conditions("average")),
    ]
    (pair,) = pairs[0].pairs
    assert (pair.first, pair.second) == ("fam-100m", "fam-1b")
    assert [site.site for site in pair.sites] == ["input", "intermediate"]
    rows = results.differences.query("comparison == 'model' and task == 'average' and rule == 'top_k'")
    assert [site.difference.low for site in pair.sites] == rows["low"].tolist()
