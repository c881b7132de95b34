"""Several studies read as one: what counts once, what is told apart, what is said; and where the sparsity is."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_studies import Model, study

from sparsedial.errors import SpecError, StoreError
from sparsedial.report.answer import answer
from sparsedial.study.naming import family, model_names
from sparsedial.study.profiles import robust_z
from sparsedial.study.results import results
from sparsedial.study.store import Store

SMALL, LARGE = Model("fam-100m", 100_000_000), Model("fam-1b", 1_000_000_000, strength=1.4)
MIXTURE = Model("mix-7b-a1b", 7_000_000_000, layers=3, experts=8, active=1_000_000_000)
ONE = {"tasks": ("piqa",), "sites": ("input",)}


def remove(store, keep):
    """Take away the sparse trials of which ``keep`` says no, with their scores."""
    for record in list(store.trials()):
        if record["identity"]["site"] and not keep(record):
            store.trial_path(record["key"]).unlink()
            for path in (store.folder / "samples").glob(f"{record['key']}*"):
                path.unlink()


def test_the_same_trial_in_two_studies_counts_once(tmp_path):
    first = study(tmp_path / "a", [SMALL])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    alone, joined = results(first), results([first, Store(tmp_path / "b")])
    pd.testing.assert_frame_equal(joined.critical, alone.critical)
    pd.testing.assert_frame_equal(joined.points, alone.points)
    assert joined.problems == []
    assert joined.provenance["trials"] == alone.provenance["trials"]


def test_studies_of_single_models_join_to_what_one_study_of_both_gives(tmp_path):
    both = results(study(tmp_path / "both", [SMALL, LARGE]))
    parts = [study(tmp_path / "a", [SMALL]), study(tmp_path / "b", [SMALL, LARGE])]
    remove(parts[1], lambda record: record["labels"]["model"] == LARGE.name)
    joined = results(parts)
    pd.testing.assert_frame_equal(joined.critical, both.critical)
    pd.testing.assert_frame_equal(joined.trends, both.trends)
    assert joined.critical["model"].drop_duplicates().tolist() == [SMALL.name, LARGE.name]


def test_a_curve_may_lie_in_two_studies(tmp_path):
    whole = results(study(tmp_path / "whole", [SMALL], **ONE))
    parts = [study(tmp_path / name, [SMALL], **ONE) for name in "ab"]
    remove(parts[0], lambda record: record["identity"]["rule"]["value"] > 0.93)
    remove(parts[1], lambda record: record["identity"]["rule"]["value"] < 0.93)
    joined = results(parts)
    pd.testing.assert_frame_equal(joined.points, whole.points)
    assert len(joined.problems) == 4 and all("missing" in problem for problem in joined.problems)


def test_a_trial_with_other_numbers_elsewhere_is_a_problem_and_the_first_counts(tmp_path):
    stores = [
        study(tmp_path / name, [model], **ONE) for name, model in (("a", SMALL), ("b", replace(SMALL, strength=3)))
    ]
    joined = results(stores)
    pd.testing.assert_frame_equal(joined.critical, results(stores[0]).critical)
    assert any("has other numbers than in" in problem and "'" in problem for problem in joined.problems)


def test_models_of_one_name_are_told_apart_by_dtype_then_by_weights(tmp_path):
    variants = [SMALL, replace(SMALL, dtype="bfloat16"), replace(SMALL, weights="b" * 64)]
    stores = [study(tmp_path / str(n), [variant], **ONE) for n, variant in enumerate(variants)]
    names = results(stores).critical["model"].tolist()
    assert len(set(names)) == 3
    assert "fam-100m (bfloat16)" in names
    assert any(name.startswith("fam-100m (float32, weights bbbbbbbb") for name in names)
    assert results(stores[:1]).critical["model"].tolist() == ["fam-100m"]


def test_a_directory_is_called_by_its_last_part():
    identity = {"model": {"weights": "ab", "dtype": "float32"}}
    record = {"identity": identity, "labels": {"model": "/some/where/tiny", "origin": "directory"}}
    assert list(model_names([record]).values()) == ["tiny"]


def test_the_same_model_under_two_names_is_one_model(tmp_path):
    names = ("hub/fam-100m", "fam-copy")
    stores = [
        study(tmp_path / str(n), [replace(SMALL, name=name, weights="c" * 64)], **ONE) for n, name in enumerate(names)
    ]
    assert results(stores).critical["model"].tolist() == ["hub/fam-100m"]


def test_a_task_measured_in_two_ways_is_two_tasks_and_counts_once_in_the_average(tmp_path):
    few = study(tmp_path / "few", [SMALL], sites=("input",), limit=100, examples=100)
    many = study(tmp_path / "many", [SMALL], sites=("input",), limit=400, examples=400)
    found = results([few, many]).critical.set_index("task")
    assert set(found.index) == {"arc_easy (limit 100)", "arc_easy (limit 400)", "piqa (limit 100)", "piqa (limit 400)",
                                "average"}  # fmt: skip
    assert found.loc["average", "examples"] == 800


@pytest.mark.parametrize("by_size", [True, False])
def test_a_group_has_a_curve_and_counts_as_one_task(tmp_path, by_size):
    sizes = {"anatomy": 300, "law": 100, "piqa": 50}
    groups = dict.fromkeys(("anatomy", "law"), ("mmlu", by_size))
    found = results(study(tmp_path, [SMALL], tasks=tuple(sizes), sites=("input",), examples=sizes, groups=groups))
    score = found.points.set_index(["task", "p"])["score"].unstack("task")
    share = 0.75 if by_size else 0.5
    group = share * score["anatomy"] + (1 - share) * score["law"]
    pd.testing.assert_series_equal(score["mmlu (2 tasks)"], group, check_names=False)
    pd.testing.assert_series_equal(score["average"], (group + score["piqa"]) / 2, check_names=False)
    critical = found.critical.set_index("task")
    assert critical.loc["mmlu (2 tasks)", ["metric", "examples"]].tolist() == ["mean of 2", 400]
    assert critical.loc["average", ["metric", "examples"]].tolist() == ["mean of 2", 450]
    assert not any("not compared" in note for note in found.notes)
    assert critical.loc["mmlu (2 tasks)", "low"] < critical.loc["mmlu (2 tasks)", "value"]
    assert critical["group"].dropna().to_dict() == dict.fromkeys(groups, "mmlu (2 tasks)")


def test_a_group_alone_is_its_own_average(tmp_path):
    groups = dict.fromkeys(("anatomy", "law"), ("mmlu", True))
    found = results(study(tmp_path, [SMALL], tasks=tuple(groups), sites=("input",), groups=groups))
    assert found.critical["task"].tolist() == ["anatomy", "law", "mmlu (2 tasks)"]
    assert answer(found)[0].startswith(f"{SMALL.name} on mmlu (2 tasks): ")


def test_a_group_is_whole_however_its_tasks_were_asked_for_or_says_that_it_is_not(tmp_path):
    groups = {"anatomy": ("mmlu", True, "by itself"), "law": ("mmlu", True), "logic": ("mmlu", True)}
    store = study(tmp_path / "a", [SMALL, LARGE], tasks=tuple(groups), sites=("input",), groups=groups)
    assert "mmlu (3 tasks)" in set(results(store).critical["task"])
    remove(store, lambda r: (r["labels"]["model"], r["labels"]["task"]) != (SMALL.name, "law"))
    found = results(store).critical
    assert set(found[found["model"] == SMALL.name]["task"]) == {"anatomy", "logic", "mmlu (2 of 3 tasks)"}
    assert "mmlu (3 tasks)" in set(found[found["model"] == LARGE.name]["task"])


def test_averages_over_different_tasks_are_named_and_not_compared(tmp_path):
    two = study(tmp_path / "two", [SMALL], sites=("input",))
    three = study(tmp_path / "three", [LARGE], tasks=("arc_easy", "piqa", "sciq"), sites=("input",))
    found = results([two, three])
    assert {"average of arc_easy, piqa", "average of arc_easy, piqa, sciq"} <= set(found.critical["task"])
    assert any("not compared" in note for note in found.notes)
    assert set(found.trends["task"]) == {"arc_easy", "piqa"}
    assert not any("not compared" in note for note in results([two]).notes)


def test_tasks_without_a_dial_value_in_common_have_no_average_and_that_is_noted(tmp_path):
    one = study(tmp_path / "a", [SMALL], ("piqa",), ("input",), values=(0.98, 0.9))
    other = study(tmp_path / "b", [SMALL], ("sciq",), ("input",), values=(0.97, 0.8))
    found = results([one, other])
    assert set(found.critical["task"]) == {"piqa", "sciq"}
    assert any("No average" in note and "fam-100m, input" in note for note in found.notes)
    assert not any("No average" in note for note in results([one]).notes)


def test_devices_mixed_within_a_curve_are_noted(tmp_path):
    stores = [study(tmp_path / device, [replace(SMALL, device=device)], **ONE) for device in ("cpu", "cuda")]
    assert not any("device" in note for note in results(stores[1]).notes)
    remove(stores[0], lambda record: record["identity"]["rule"]["value"] > 0.93)
    notes = results(stores).notes
    assert any("different devices" in note and "fam-100m, input, piqa" in note for note in notes)


def test_studies_that_keep_different_shares_need_to_be_told_which(tmp_path):
    stores = [study(tmp_path / "a", [SMALL], **ONE), study(tmp_path / "b", [LARGE], **ONE, retain=0.9)]
    with pytest.raises(SpecError, match=r"0\.9, 0\.99.*--retain"):
        results(stores)
    assert results(stores, retain=0.95).retain == 0.95


def test_a_study_with_nothing_finished_is_a_problem_beside_others_and_an_error_alone(tmp_path):
    full, empty = study(tmp_path / "full", [SMALL], **ONE), Store.create(tmp_path / "empty")
    empty.write_spec(full.read_spec())
    assert any("no finished trial" in problem for problem in results([full, empty]).problems)
    with pytest.raises(StoreError, match="no finished trial"):
        results([empty])
    with pytest.raises(StoreError, match="at least one directory"):
        results([])


def test_points_say_who_chose_them(tmp_path):
    grid = study(tmp_path / "grid", [SMALL], **ONE, values=(0.98, 0.9))
    search = study(tmp_path / "search", [SMALL], **ONE, values=(0.95, 0.9), search=True)
    chosen = results([grid, search]).points.set_index("p")["chosen_by"]
    assert chosen.to_dict() == {0.98: "grid", 0.9: "grid", 0.95: "search"}


def test_many_problems_of_a_kind_are_counted_not_dropped(tmp_path):
    store = study(tmp_path / "a", [SMALL], tasks=("piqa", "sciq", "arc_easy"))
    remove(store, lambda record: record["identity"]["rule"]["value"] == 0.9)
    problems = results(store).problems
    missing = [problem for problem in problems if problem.startswith("missing")]
    assert len(missing) == 11 and "8 more" in missing[-1]  # 3 tasks x 2 sites x 3 values


def test_trends_are_of_a_family_and_hold_the_numbers(tmp_path):
    other = Model("other-2b", 2_000_000_000)
    read = results(study(tmp_path, [SMALL, LARGE, other, MIXTURE], sites=("input",)))
    found = read.trends
    assert set(found["family"]) == {"fam"}
    assert set(found["task"]) == {"arc_easy", "piqa", "average"}
    assert (found["smallest"] == 1e8).all() and (found["largest"] == 1e9).all()
    critical = read.critical.set_index(["model", "task", "site"])["value"]
    for _, row in found.iterrows():
        low, high = (critical[model.name, row["task"], row["site"]] for model in (SMALL, LARGE))
        assert row["slope"] == pytest.approx(high - low)  # ten times the size


def test_the_family_is_the_records_own_where_it_has_one():
    assert family({"model": "x-1b", "family": "llama"}) == "llama"
    assert family({"model": "x-8x7B", "parameters": 46, "active_parameters": 13}) == "x (MoE)"


# ------------------------------------------------------------------ where the sparsity is


def by_hand(store, task, columns):
    """Dropped and total of every key in a study's rows at one p, added up one by one."""
    counts = {}
    for record in store.trials():
        if record["identity"]["site"] == "input" and record["labels"]["task"] == task:
            for row in record["stats"]:
                key = (record["identity"]["rule"]["value"], *(row[name] for name in columns))
                dropped, total, tokens = counts.get(key, (0, 0, 0))
                counts[key] = dropped + row["dropped"], total + row["total"], tokens + row.get("tokens", 0)
    return counts


def test_a_layer_of_experts_is_weighted_by_their_counts(tmp_path):
    store = study(tmp_path, [MIXTURE], **ONE)
    counts = by_hand(store, "piqa", ("layer",))
    layers = results(store).layers
    assert layers["layer"].tolist() == [0, 1, 2]
    for _, row in layers.iterrows():
        dropped, total, _ = counts[row["p"], row["layer"]]
        assert row["sparsity"] == pytest.approx(dropped / total)


def test_experts_that_saw_no_token_have_no_data_and_outliers_are_marked(tmp_path):
    store = study(tmp_path, [MIXTURE, SMALL], **ONE)
    counts = by_hand(store, "piqa", ("layer", "expert"))
    experts = results(store).experts
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
    store = study(tmp_path / "a", [MIXTURE], **ONE)
    old = Store.create(tmp_path / "b")
    old.write_spec(store.read_spec())
    old.write_resolved(store.read_resolved())
    for record in store.trials():
        scores = store.samples(record)
        stats = [{k: v for k, v in row.items() if k not in ("tokens", "weight")} for row in record["stats"]]
        old.write_trial({**record, "stats": [row for row in stats if row["total"]]}, scores)
    experts = results(old).experts
    assert len(experts) == 3 * 7  # nothing tells that there is an eighth
    assert experts["sparsity"].notna().all() and experts["share"].isna().all() and experts["weight"].isna().all()


def test_experts_of_the_average_are_added_up_over_its_tasks(tmp_path):
    store = study(tmp_path, [MIXTURE], sites=("input",))
    experts = results(store).experts
    assert set(experts["task"]) == {"average"}
    both = [by_hand(store, task, ("layer", "expert")) for task in ("arc_easy", "piqa")]
    row = experts.iloc[0]
    key = row["p"], row["layer"], row["expert"]
    assert row["tokens"] == sum(counts[key][2] for counts in both)


def test_steps_and_generated_texts_are_tables_only_where_there_are_any(tmp_path):
    diffusion = Model("dlm-100m", 100_000_000, steps=6)
    found = results(study(tmp_path / "a", [diffusion], **ONE))
    assert len(found.steps) == 6 * 4 and found.generated.empty and found.experts.empty
    found = results(study(tmp_path / "b", [SMALL], ("gsm8k", "piqa"), ("input",), generates=("gsm8k",)))
    assert found.steps.empty
    assert set(found.generated["task"]) == {"gsm8k"}
    dense, *sparse = found.generated.to_dict("records")
    assert np.isnan(dense["p"]) and np.isnan(dense["generation"]) and dense["generated_tokens"] == 60
    assert [row["p"] for row in sparse] == [0.98, 0.95, 0.9, 0.8]
    assert all(row["generation"] > row["prefill"] > 0 and row["limit_hit"] > 0.02 for row in sparse)
    assert set(found.layers["phase"]) == {"prefill", "generation"}


@given(st.lists(st.floats(0.0, 1.0), min_size=5, max_size=30), st.floats(0.1, 10), st.floats(-5, 5))
def test_how_far_out_an_expert_lies_does_not_depend_on_level_or_scale(values, scale, shift):
    values = np.round(values, 3)
    moved = robust_z(values * scale + shift)
    assert moved == pytest.approx(robust_z(values), abs=1e-5, rel=1e-5)


def test_nothing_is_an_outlier_where_nothing_can_be_said():
    assert robust_z(np.array([0.1, 0.1, 0.1, 0.9])).tolist() == [0, 0, 0, 0]  # too few
    assert robust_z(np.array([0.1] * 5 + [0.9])).tolist() == [0] * 6  # no spread
    z = robust_z(np.array([0.1, 0.2, np.nan, 0.3, 0.4, 0.5]))
    assert z[2] == 0 and z[3] == 0
