"""The criterion of a study: which points are searched, what is stored, and what the tables show."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

import sparsedial as sd
from sparsedial.analysis.results import compute_results
from sparsedial.curves.critical import critical_sparsity
from sparsedial.errors import SpecError
from sparsedial.study.criterion import RETAIN_BY_PERPLEXITY, describe_criterion_problems
from sparsedial.study.example_growth import GrowingSearch
from sparsedial.study.integrity import find_problems
from sparsedial.study.records import SCHEMA_VERSION
from sparsedial.study.runner import run_study
from sparsedial.study.sample_table import SampleLabels, has_equal_examples
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.tasks.base import LIKELIHOOD_COLUMNS, NLL, NLL_TOKENS

COLUMNS = {"perplexity_sparsity", "perplexity_low", "perplexity_high", "dense_perplexity"}


@pytest.fixture
def one_site(spec):
    """A study of one site with enough sequences for an interval."""
    return dataclasses.replace(spec, sites=("input",), task_options={"sequences": 24, "length": 6})


@pytest.fixture
def searched(one_site):
    return dataclasses.replace(one_site, values=None)


def sample_tables(store):
    return [store.find_sample_table(record) for record in store.trials()]


def forget_likelihoods(store):
    """Make the trials of a study look like those of a version that stored no likelihoods."""
    for record in list(store.trials()):
        table = store.find_sample_table(record)
        for path in (store.folder / "samples").glob(f"{record.key}*"):
            path.unlink()
        store.trial_path(record.key).unlink()
        store.write_trial(record, table["score"].to_numpy(), SampleLabels(predictions=tuple(table["prediction"])))


def test_trials_store_likelihoods_and_their_keys_do_not_depend_on_the_criterion(one_site, tmp_path):
    by_score = run_study(one_site, tmp_path / "score", device="cpu")
    both = run_study(dataclasses.replace(one_site, criterion="both"), tmp_path / "both", device="cpu")
    assert SCHEMA_VERSION == 4
    assert [record.key for record in by_score.trials()] == [record.key for record in both.trials()]
    for table in sample_tables(by_score):
        assert set(LIKELIHOOD_COLUMNS) <= set(table.columns)
        assert (table[NLL] > 0).all() and (table[NLL_TOKENS] == 6).all()
    assert COLUMNS.isdisjoint(compute_results(by_score).critical.columns)
    [row] = compute_results(both).critical.to_dict("records")
    assert set(row) >= COLUMNS


def test_the_critical_sparsity_by_perplexity_is_that_of_the_function(one_site, tmp_path):
    store = run_study(dataclasses.replace(one_site, criterion="both"), tmp_path, device="cpu")
    nll = {}
    for record in store.trials():
        table = store.find_sample_table(record)
        nll[record.result.sparsity] = (table[NLL] / table[NLL_TOKENS]).to_numpy()
    expected = sd.critical_sparsity_by_perplexity(list(nll.items()))
    results = compute_results(store)
    [row] = results.critical.to_dict("records")
    assert row["perplexity_low"] == expected.low
    assert row["perplexity_high"] == expected.high
    assert row["dense_perplexity"] == pytest.approx(math.exp(nll[0.0].mean()))
    perplexities = sorted(math.exp(values.mean()) for sparsity, values in nll.items() if sparsity > 0)
    assert sorted(results.points["perplexity"]) == pytest.approx(perplexities)
    ratio = results.points["perplexity"] / results.points["dense_perplexity"]
    assert (results.points["perplexity_ratio_low"] <= ratio).all()
    assert (results.points["perplexity_ratio_high"] >= ratio).all()


def test_a_search_by_perplexity_brackets_its_own_critical_sparsity(searched, tmp_path):
    by_score = run_study(searched, tmp_path / "score", device="cpu")
    spec = dataclasses.replace(searched, criterion="perplexity")
    results = compute_results(run_study(spec, tmp_path / "perplexity", device="cpu"))
    shown = compute_results(by_score, criterion="perplexity")
    widths = []
    for found in (results, shown):
        [row] = found.critical.to_dict("records")
        assert row["metric"] == "perplexity" and row["dense_score"] > 1
        widths.append(row["high"] - row["low"])
    assert widths[0] <= widths[1]
    assert results.retain == RETAIN_BY_PERPLEXITY
    assert any("1% higher" in note for note in results.notes)


def test_a_search_by_both_first_measures_what_a_search_by_the_score_measures(tmp_path):
    options = {"sequences": 8, "length": 16}
    spec = StudySpec(models=("zoo:dense-0.4m",), sites=("input",), dtype="float32", task_options=options)
    by_score = compute_results(run_study(spec, tmp_path / "score", device="cpu"))
    both = compute_results(run_study(dataclasses.replace(spec, criterion="both"), tmp_path / "both", device="cpu"))
    assert set(by_score.points["p"]) <= set(both.points["p"])
    assert len(both.points) > len(by_score.points)


def test_a_search_for_a_precision_uses_the_likelihoods_too(searched, tmp_path, monkeypatch):
    retained = []
    original = GrowingSearch.next_points

    def next_points(self, measured, points):
        retained.append(self.retain)
        return original(self, measured, points)

    monkeypatch.setattr(GrowingSearch, "next_points", next_points)
    spec = dataclasses.replace(searched, criterion="perplexity", precision=20.0, max_examples=24)
    run_study(spec, tmp_path, device="cpu")
    assert retained[-1] == RETAIN_BY_PERPLEXITY


def test_trials_of_earlier_versions_are_readable_and_have_no_perplexity(one_site, tmp_path):
    store = run_study(one_site, tmp_path, device="cpu")
    forget_likelihoods(store)
    assert find_problems(store) == []
    results = compute_results(store, criterion="both")
    assert results.critical["perplexity_sparsity"].isna().all()
    assert results.points["perplexity"].isna().all()
    assert results.critical["sparsity"].notna().any() or results.critical["high"].notna().any()
    [note] = [note for note in results.notes if "No perplexity is known" in note]
    assert "self_prediction" in note
    left_out = compute_results(store, criterion="perplexity")
    assert left_out.critical.empty
    assert any("no perplexity" in problem for problem in left_out.problems)


def test_rounding_of_likelihoods_is_no_conflict(one_site, tmp_path):
    store = run_study(one_site, tmp_path, device="cpu")
    record = next(store.trials())
    table = store.find_sample_table(record)
    labels = SampleLabels(predictions=tuple(table["prediction"]), columns={NLL: table[NLL] * (1 + 1e-7)})
    store.write_trial(record, table["score"].to_numpy(), labels)
    assert find_problems(store) == []
    store.write_trial(record, table["score"].to_numpy(), dataclasses.replace(labels, columns={NLL: table[NLL] + 1}))
    assert [problem.kind for problem in find_problems(Store(tmp_path))].count("conflicting") == 1


def test_equal_examples_may_lack_likelihoods():
    old = pd.DataFrame({"example": [0], "score": [0.5]})
    new = old.assign(nll=[2.0], nll_tokens=[3.0])
    assert has_equal_examples(old, new)
    assert not has_equal_examples(old, new.assign(score=[0.25]))


@pytest.mark.parametrize(
    ("criterion", "options", "message"),
    [
        ("perplexty", {}, "did you mean 'perplexity'"),
        ("both", {"tasks": ("restoration",)}, "no task has a text whose perplexity can be measured: restoration"),
        ("perplexity", {"retain": 0.95}, "it is a share of the score"),
    ],
)
def test_a_criterion_that_cannot_be_used_is_a_problem_of_the_study(spec, criterion, options, message):
    [problem] = dataclasses.replace(spec, criterion=criterion, task_options={}, **options).problems("cpu")
    assert message in problem


def test_only_the_criterion_of_the_score_needs_no_likelihoods():
    assert describe_criterion_problems("score", [object()]) == []
    assert describe_criterion_problems("both", []) == []


def test_a_study_file_and_its_command_name_the_criterion():
    spec = StudySpec.from_json({"models": ["m"], "criterion": "both"})
    assert spec.command()[-2:] == ["--criterion", "both"]
    with pytest.raises(SpecError, match="criterion"):
        StudySpec.from_json({"models": ["m"], "criterion": 1})


def test_unequal_lengths_count_by_their_tokens(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("Once upon a time there was a fox.\nA cat.\nThe sun was warm and the day was long.\n")
    result = sd.measure(
        "zoo:dense-0.4m", tasks="next_token", text=str(texts), length=9, sites="input", p=[0.9, 0.5], dtype="float32",
        device="cpu", criterion="both", out=tmp_path / "out", progress=False,
    )  # fmt: skip
    dense = [record for record in Store(tmp_path / "out").trials() if record.identity.is_dense]
    table = Store(tmp_path / "out").find_sample_table(dense[0])
    [row] = result.critical.to_dict("records")
    assert row["dense_perplexity"] == pytest.approx(np.exp(table[NLL].sum() / table[NLL_TOKENS].sum()))


def test_critical_sparsity_by_score_stays_what_it_is(one_site, tmp_path):
    spec = dataclasses.replace(one_site, criterion="both")
    store = run_study(spec, tmp_path, device="cpu")
    result = compute_results(store, criterion="score")
    both = compute_results(store)
    assert result.critical["sparsity"].tolist() == both.critical["sparsity"].tolist()
    assert result.retain == both.retain == 0.99
    assert critical_sparsity([(0.1, 1.0), (0.2, 0.5)], dense=1.0).retain == 0.99
