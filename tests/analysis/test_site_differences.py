"""Sites that are compared on the same examples."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from sparsedial.analysis.findings import compute_findings
from sparsedial.analysis.results import compute_results
from sparsedial.analysis.site_differences import find_differences
from sparsedial.report.summary_text import summarize
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from tests.support.made_up_studies import SMALL, study

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
    assert (row["site"], row["other_site"], row["verdict"]) == ("input", "gate", "unclear")
    assert row["low"] <= row["difference"] <= row["high"]
    assert critical.loc["input", "high"] >= critical.loc["gate", "low"]
    (model,) = compute_findings(correlated).models
    assert (model.best.site, model.lead.other, model.rivals) == ("gate", "input", ("input",))
    clear = correlated.differences.assign(low=-0.05, high=-0.01, verdict="less")
    (model,) = compute_findings(dataclasses.replace(correlated, differences=clear)).models
    assert model.rivals == ()  # although the intervals of the two sites overlap
    (model,) = compute_findings(dataclasses.replace(correlated, differences=pd.DataFrame())).models
    assert (model.lead, model.rivals) == (None, ("input",))


def test_the_report_states_the_difference_and_its_interval(correlated):
    text = " ".join(summarize(correlated))
    assert "The difference from input, the next site, is +" in text
    assert "percentage points (95% interval " in text


def test_a_difference_is_read_in_both_directions():
    label = {"model": "m", "rule": "top_p", "layers": "all", "task": "t"}
    numbers = {"difference": 0.1, "low": 0.05, "high": 0.2, "verdict": "more"}
    table = pd.DataFrame([{**label, "site": "input", "other_site": "gate", **numbers}])
    forward = find_differences(table, {**label, "site": "input"})["gate"]
    backward = find_differences(table, {**label, "site": "gate"})["input"]
    assert (forward.value, forward.low, forward.high, forward.is_more) == (0.1, 0.05, 0.2, True)
    assert (backward.value, backward.low, backward.high, backward.is_more) == (-0.1, -0.2, -0.05, False)
    assert find_differences(table, {**label, "task": "u", "site": "gate"}) == {}
