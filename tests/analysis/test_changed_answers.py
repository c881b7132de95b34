"""Answers that change near the critical sparsity are listed from the stored examples."""

import json

import numpy as np
import pytest

from sparsedial.analysis.changed_answers import MAX_LISTED_EXAMPLES, ChangedAnswers
from sparsedial.analysis.example_texts import ExampleTexts
from sparsedial.analysis.results import compute_results
from sparsedial.analysis.retention_curves import DisplayNames, read_curves
from sparsedial.analysis.trial_set import read_studies
from sparsedial.models.stored_tokenizer import find_stored_tokenizer
from sparsedial.study.runner import run_study
from sparsedial.study.sample_table import SampleLabels
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from tests.support.made_up_studies import SMALL, study


def read_scores(store, results):
    """Return the scores of the dense model and of the trial that the report shows."""
    p = results.changes["p"].iloc[0]
    by_p = {}
    for record in store.trials():
        by_p[None if record.identity.is_dense else record.p] = store.samples(record)
    return by_p[None], by_p[p]


def relabel(store, make_predictions):
    """Write the trials of a study again, with other predictions."""
    for record in list(store.trials()):
        scores = store.samples(record)
        store.trial_path(record.key).unlink()
        for path in (store.folder / "samples").glob(f"{record.key}*"):
            path.unlink()
        store.write_trial(record, scores, SampleLabels((), make_predictions(record, scores)))


def test_lost_examples_come_first_with_both_answers(tmp_path):
    store = study(tmp_path, [SMALL], ("piqa",), ("input",), labelled=True)
    results = compute_results(store)
    dense, sparse = read_scores(store, results)
    (counts,) = results.changes.to_dict("records")
    assert (counts["kind"], counts["compared"]) == ("examples", 200)
    assert (counts["changed"], counts["lost"], counts["gained"]) == ((dense != sparse).sum(), (dense > sparse).sum(), 0)
    listed = results.changed_examples
    assert 0 < len(listed) <= MAX_LISTED_EXAMPLES
    for row in listed.to_dict("records"):
        assert (row["dense_answer"], row["sparse_answer"]) == ("right", "wrong")
        assert row["id"] == f"question-{row['example']}"
        assert (row["dense_score"], row["sparse_score"]) == (dense[row["example"]], sparse[row["example"]]) == (1, 0)


def test_an_answer_can_change_without_a_change_of_the_score(tmp_path):
    store = study(tmp_path, [SMALL], ("piqa",), ("input",))
    relabel(store, lambda record, scores: tuple(f"{record.p} {score}" for score in scores))
    (counts,) = compute_results(store).changes.to_dict("records")
    assert counts["changed"] == 200 > counts["lost"]


def test_trials_without_recorded_answers_are_compared_by_their_scores(tmp_path):
    store = study(tmp_path, [SMALL], ("piqa",), ("input",))
    results = compute_results(store)
    dense, sparse = read_scores(store, results)
    assert results.changes["changed"].tolist() == [(dense != sparse).sum()]
    assert results.changed_examples["dense_answer"].tolist() == [None] * len(results.changed_examples)


def test_lower_scores_are_gains_where_lower_is_better(tmp_path):
    trial_set = read_studies([study(tmp_path, [SMALL], ("piqa",), ("input",), labelled=True)])
    (curve, *_), _ = read_curves(trial_set, DisplayNames.from_trials(trial_set.trials))
    trial = curve.trials[-1]
    counts = {}
    for direction in (True, False):
        object.__setattr__(trial.result, "higher_is_better", direction)
        changed = ChangedAnswers()
        changed.add_curve(curve, [trial], trial_set, ExampleTexts())
        counts[direction] = (changed.changes[0]["lost"], changed.changes[0]["gained"])
    assert counts[True] == counts[False][::-1] and counts[True][0] > 0


def test_predicted_tokens_are_counted_by_the_token_of_the_dense_model(tmp_path):
    store = study(tmp_path, [SMALL], ("self_prediction",), ("input",), examples=20)
    tokens = {True: [7, 7, 8, 9], False: [7, 5, 5, 9]}  # dense, sparse
    relabel(store, lambda record, scores: (json.dumps(tokens[record.identity.is_dense]),) * len(scores))
    results = compute_results(store)
    (counts,) = results.changes.to_dict("records")
    assert (counts["kind"], counts["compared"], counts["changed"]) == ("tokens", 80, 40)
    rows = {row["token_id"]: row for row in results.changed_tokens.to_dict("records")}
    assert set(rows) == {7, 8}
    assert (rows[7]["positions"], rows[7]["changed"]) == (40, 20)
    assert (rows[8]["replacement_id"], rows[8]["replacement_count"]) == (5, 20)
    assert results.changed_examples.empty


def test_damaged_examples_leave_the_rest_of_the_report(tmp_path):
    store = study(tmp_path, [SMALL], ("piqa",), ("input", "gate"), labelled=True)
    shown = compute_results(store).changes
    (damaged,) = [
        record for record in store.trials() if (record.identity.site, record.p) == ("gate", shown["p"].iloc[1])
    ]
    (path,) = (store.folder / "samples").glob(f"{damaged.key}*")
    path.write_bytes(b"")
    assert "input" in compute_results(store).changes["site"].tolist()


def test_a_real_study_names_the_tokens_of_self_prediction(tmp_path):
    spec = StudySpec(models=("zoo:dense-0.4m",), sites=("intermediate",), values=(0.7,),
                     task_options={"sequences": 8, "length": 24})  # fmt: skip
    run_study(spec, tmp_path, device="cpu")
    tokens = compute_results(Store(tmp_path)).changed_tokens
    tokenizer = find_stored_tokenizer("zoo:dense-0.4m")
    assert not tokens.empty
    for row in tokens.to_dict("records"):
        assert row["token"] == tokenizer.decode([row["token_id"]])
        assert row["replacement"] == tokenizer.decode([row["replacement_id"]])


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/folder", "nothing.gguf", "zoo:no-such-model"])
def test_a_model_that_is_not_on_this_machine_has_no_tokenizer(name):
    assert find_stored_tokenizer(name) is None


def test_layers_and_experts_are_known_at_every_p(tmp_path):
    results = compute_results(study(tmp_path, [SMALL], ("piqa",), ("input", "all_inputs")))
    assert len(results.layers_by_p) == 3 * 4  # vectors, values of p
    for row in results.layers.to_dict("records"):
        same = results.layers_by_p[
            (results.layers_by_p["site"] == row["site"])
            & (results.layers_by_p["vector"] == row["vector"])
            & (results.layers_by_p["p"] == row["p"])
        ]
        (profile,) = same.to_dict("records")
        assert profile["sparsity"][profile["layer"].index(row["layer"])] == row["sparsity"]
    assert results.experts_by_p.empty
    assert np.all([len(row) == 4 for row in results.layers_by_p["layer"]])
