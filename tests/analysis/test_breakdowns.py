"""Sparsity by layer, expert and denoising step, compared with sums by hand."""

from dataclasses import replace

import numpy as np
import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.study.store import Store
from tests.support.made_up_studies import MIXTURE, SMALL, Model, study

ONE_TASK = {"tasks": ("piqa",), "sites": ("input",)}


def sum_by_hand(store, task, columns):
    """Dropped and total of every key in a study's rows at one p, added up one by one."""
    counts = {}
    for record in store.trials():
        if record.identity.site == "input" and record.task.name == task:
            for row in record.counts:
                key = (record.identity.rule.value, *(getattr(row, name) for name in columns))
                dropped, total, tokens = counts.get(key, (0, 0, 0))
                counts[key] = dropped + row.dropped, total + row.total, tokens + row.tokens
    return counts


def test_a_layer_of_experts_is_weighted_by_their_counts(tmp_path):
    store = study(tmp_path, [MIXTURE], **ONE_TASK)
    counts = sum_by_hand(store, "piqa", ("layer",))
    layers = compute_results(store).layers
    assert layers["layer"].tolist() == [0, 1, 2]
    for _, row in layers.iterrows():
        dropped, total, _ = counts[row["p"], row["layer"]]
        assert row["sparsity"] == pytest.approx(dropped / total)


def test_experts_that_saw_no_token_have_no_data_and_outliers_are_marked(tmp_path):
    store = study(tmp_path, [MIXTURE, SMALL], **ONE_TASK)
    counts = sum_by_hand(store, "piqa", ("layer", "expert"))
    experts = compute_results(store).experts
    assert set(experts["model"]) == {MIXTURE.name}
    assert len(experts) == 3 * 8
    unseen = experts[experts["expert"] == 7]
    assert unseen["sparsity"].isna().all() and (unseen["tokens"] == 0).all() and not unseen["outlier"].any()
    for _, row in experts[experts["expert"] < 7].iterrows():
        dropped, total, tokens = counts[row["p"], row["layer"], row["expert"]]
        assert (row["sparsity"], row["tokens"]) == (dropped / total, tokens)
        assert row["weight"] == pytest.approx(tokens / 6000)
    assert experts.groupby("layer")["share"].sum().tolist() == pytest.approx([1, 1, 1])
    far = experts[experts["outlier"]]
    assert list(zip(far["layer"], far["expert"], strict=True)) == [(1, 1)]


def test_rows_without_a_routing_count_still_give_experts(tmp_path):
    """What a model that keeps a list of experts gives today: an expert's index, and no tokens or weight."""
    store = study(tmp_path / "a", [MIXTURE], **ONE_TASK)
    old = Store.create(tmp_path / "b")
    old.write_spec(store.read_spec())
    old.write_resolved(store.read_resolved())
    for record in store.trials():
        scores = store.samples(record)
        counts = tuple(replace(row, tokens=0, weight=None) for row in record.counts if row.total)
        old.write_trial(replace(record, counts=counts), scores)
    experts = compute_results(old).experts
    assert len(experts) == 3 * 7  # nothing tells that there is an eighth
    assert experts["sparsity"].notna().all() and experts["share"].isna().all() and experts["weight"].isna().all()


def test_experts_of_the_average_are_added_up_over_its_tasks(tmp_path):
    store = study(tmp_path, [MIXTURE], sites=("input",))
    experts = compute_results(store).experts
    assert set(experts["task"]) == {"average"}
    both = [sum_by_hand(store, task, ("layer", "expert")) for task in ("arc_easy", "piqa")]
    row = experts.iloc[0]
    key = row["p"], row["layer"], row["expert"]
    assert row["tokens"] == sum(counts[key][2] for counts in both)


def test_steps_and_generated_texts_are_tables_only_where_there_are_any(tmp_path):
    diffusion = Model("dlm-100m", 100_000_000, steps=6)
    found = compute_results(study(tmp_path / "a", [diffusion], **ONE_TASK))
    assert len(found.steps) == 6 * 4 and found.generated.empty and found.experts.empty
    found = compute_results(study(tmp_path / "b", [SMALL], ("gsm8k", "piqa"), ("input",), generates=("gsm8k",)))
    assert found.steps.empty
    assert set(found.generated["task"]) == {"gsm8k"}
    dense, *sparse = found.generated.to_dict("records")
    assert np.isnan(dense["p"]) and np.isnan(dense["generation"]) and dense["generated_tokens"] == 60
    assert [row["p"] for row in sparse] == [0.98, 0.95, 0.9, 0.8]
    assert all(row["generation"] > row["prefill"] > 0 and row["limit_hit"] > 0.02 for row in sparse)
    assert set(found.layers["phase"]) == {"prefill", "generation"}
