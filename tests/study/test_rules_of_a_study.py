"""The rules of other papers in studies: their families, their calibrations, and the sites where they are defined."""

import dataclasses
import json
import re

import pytest

import sparsedial as sd
from sparsedial.analysis.results import compute_results
from sparsedial.calibration.calibrate import SAMPLE_SEED
from sparsedial.errors import SpecError
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.integrity import find_problems
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.tasks.self_prediction import CausalSelfPrediction

FAMILIES = ("top_p", "top_p(q=2)", "n_of_m(m=16)", "weighted_top_k", "threshold(tokens=64)", "cett(tokens=64)")


@pytest.fixture
def rules_spec(spec):
    return dataclasses.replace(spec, sites=("gate", "intermediate"), rules=FAMILIES, values=(0.5,))


def test_a_study_of_all_rules_measures_them_where_they_are_defined(rules_spec, tmp_path):
    store = run_study(rules_spec, tmp_path, device="cpu")
    assert find_problems(store) == []
    points = compute_results(Store(tmp_path)).points
    measured = {(row.site, row.rule) for row in points.itertuples()}
    everywhere = {(site, family) for site in ("gate", "intermediate") for family in FAMILIES}
    assert measured == everywhere - {("gate", "weighted_top_k"), ("gate", "cett(tokens=64)")}
    sparsity = points[points["site"] == "intermediate"].set_index("rule")["sparsity"]
    assert sparsity["top_p(q=2)"] > sparsity["top_p"] + 0.05
    assert sparsity["n_of_m(m=16)"] == sparsity["weighted_top_k"] == 0.5
    assert sparsity["threshold(tokens=64)"] == pytest.approx(0.5, abs=0.1)
    differences = compute_results(Store(tmp_path)).differences
    assert (differences["comparison"] == "rule").sum() > 2


def test_calibrations_are_in_the_key_and_computed_once(rules_spec, tmp_path, monkeypatch):
    spec = dataclasses.replace(rules_spec, rules=("threshold(tokens=64)",), sites=("input",))
    store = run_study(spec, tmp_path, device="cpu")
    [record] = [record for record in store.trials() if record.identity.rule is not None]
    assert len(record.identity.calibration) == 64
    calls = []
    monkeypatch.setattr(sd.Threshold, "calibrate_vector", classmethod(lambda *_: calls.append(1)))
    more = dataclasses.replace(spec, values=(0.5, 0.25))
    assert len(list(run_study(more, tmp_path, device="cpu").trials())) == 3
    assert calls == []


def test_a_key_of_a_trial_with_the_default_options_is_that_of_older_versions():
    assert json.dumps(sd.TopP(0.9).to_json()) == '{"rule": "top_p", "value": 0.9, "version": 1}'


@pytest.mark.slow
def test_a_worker_in_another_process_calibrates_too(rules_spec, tmp_path):
    spec = dataclasses.replace(rules_spec, rules=("cett(tokens=64)",), sites=("intermediate",))
    store = run_study(spec, tmp_path, device="cpu", executor=ExecutorConfig(timeout=300))
    assert len(list(store.trials())) == 2


@pytest.mark.parametrize(
    ("rules", "sites", "message"),
    [
        (("n_of_m(m=7)",), ("input",), "groups of m = 7 do not divide its 32 entries"),
        (("n_of_m(m=32)",), ("input", "intermediate"), "groups of m = 32 do not divide its 80 entries"),
        (("cett",), ("input",), "Choose the site intermediate"),
        (("weighted_top_p",), ("up",), "no projection reads this vector"),
        (("top_p", "cett"), ("gate",), "Choose the site intermediate"),
    ],
)
def test_a_rule_at_a_site_where_it_is_not_defined_ends_the_study_before_any_trial(
    spec, rules, sites, message, tmp_path
):
    with pytest.raises(SpecError, match=message):
        run_study(dataclasses.replace(spec, rules=rules, sites=sites), tmp_path, device="cpu")
    assert list(Store(tmp_path).trials()) == []


def test_the_sites_of_a_study_without_names_are_those_of_the_rule(spec, tmp_path):
    store = run_study(dataclasses.replace(spec, rules=("weighted_top_k",), sites=None, values=(0.5,)), tmp_path)
    sites = {record.identity.site for record in store.trials()} - {None}
    assert sites == {"input", "intermediate", "all_inputs"}


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("top_p(q=-1)", "expected a finite number above 0"),
        ("top_q(q=2)", "unknown rule 'top_q'.*did you mean 'top_p'"),
        ("threshold(tokens=10)", "calibration tokens, at least 64"),
        ("threshold(data=next_token)", "missing.txt"),
        ("n_of_m(n=2)", "unknown option 'n': expected m"),
    ],
)
def test_wrong_rules_are_problems_of_the_specification(model_dir, family, message):
    spec = StudySpec(models=(str(model_dir),), rules=(family,), values=(0.5,))
    if "next_token" in family:
        spec = dataclasses.replace(spec, tasks=("next_token",), task_options={"text": "missing.txt"})
    problems = spec.problems("cpu")
    assert problems and all(re.search(message, problem) for problem in problems)


def test_families_are_written_in_one_way():
    spec = StudySpec(models=("m",), rules=("top_p( q = 2.0 )", "top_p(q=1)", "n_of_m(m=4)"))
    assert spec.rules == ("top_p(q=2)", "top_p", "n_of_m")
    one = StudySpec(models=("m",), rules=("top_p(q=2)",), values=(0.5,))
    assert one.command() == ["sparsedial", "run", "m", "--rule", "top_p(q=2)", "--p", "0.5"]
    assert StudySpec.from_json(one.to_json()) == one


def test_rules_as_objects_keep_their_options(llama, tmp_path):
    rules = [sd.TopP(0.5), sd.TopP(0.5, q=2)]
    result = sd.measure(llama, sites="input", rule=rules, sequences=4, length=6, progress=False, out=tmp_path)
    assert set(result.points["rule"]) == {"top_p", "top_p(q=2)"}


def test_calibrations_of_several_rules_and_sites_sample_their_texts_once(rules_spec, tmp_path, monkeypatch):
    sampled = []
    original = CausalSelfPrediction.prepare

    def prepare(self, lm, progress):
        sampled.append(self.options.seed)
        return original(self, lm, progress)

    monkeypatch.setattr(CausalSelfPrediction, "prepare", prepare)
    run_study(
        dataclasses.replace(rules_spec, rules=("threshold(tokens=64)", "cett(tokens=64)")), tmp_path, device="cpu"
    )
    assert sampled.count(SAMPLE_SEED) == 1
