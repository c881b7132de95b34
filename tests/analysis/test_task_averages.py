"""Averages over lm-eval's groups and over all tasks."""

import pandas as pd
import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.report.summary_text import summarize
from tests.support.made_up_studies import LARGE, SMALL, keep_sparse_trials, study


def test_a_task_measured_in_two_ways_is_two_tasks_and_counts_once_in_the_average(tmp_path):
    few = study(tmp_path / "few", [SMALL], sites=("input",), limit=100, examples=100)
    many = study(tmp_path / "many", [SMALL], sites=("input",), limit=400, examples=400)
    found = compute_results([few, many]).critical.set_index("task")
    assert set(found.index) == {"arc_easy (limit 100)", "arc_easy (limit 400)", "piqa (limit 100)", "piqa (limit 400)",
                                "average"}  # fmt: skip
    assert found.loc["average", "examples"] == 800


@pytest.mark.parametrize("by_size", [True, False])
def test_a_group_has_a_curve_and_counts_as_one_task(tmp_path, by_size):
    sizes = {"anatomy": 300, "law": 100, "piqa": 50}
    groups = dict.fromkeys(("anatomy", "law"), ("mmlu", by_size))
    found = compute_results(
        study(tmp_path, [SMALL], tasks=tuple(sizes), sites=("input",), examples=sizes, groups=groups)
    )
    score = found.points.set_index(["task", "p"])["score"].unstack("task")
    share = 0.75 if by_size else 0.5
    group = share * score["anatomy"] + (1 - share) * score["law"]
    pd.testing.assert_series_equal(score["mmlu (2 tasks)"], group, check_names=False)
    pd.testing.assert_series_equal(score["average"], (group + score["piqa"]) / 2, check_names=False)
    critical = found.critical.set_index("task")
    assert critical.loc["mmlu (2 tasks)", ["metric", "examples"]].tolist() == ["mean of 2", 400]
    assert critical.loc["average", ["metric", "examples"]].tolist() == ["mean of 2", 450]
    assert not any("not compared" in note for note in found.notes)
    assert critical.loc["mmlu (2 tasks)", "low"] < critical.loc["mmlu (2 tasks)", "sparsity"]
    assert critical["group"].dropna().to_dict() == dict.fromkeys(groups, "mmlu (2 tasks)")


def test_a_group_alone_is_its_own_average(tmp_path):
    groups = dict.fromkeys(("anatomy", "law"), ("mmlu", True))
    found = compute_results(study(tmp_path, [SMALL], tasks=tuple(groups), sites=("input",), groups=groups))
    assert found.critical["task"].tolist() == ["anatomy", "law", "mmlu (2 tasks)"]
    assert summarize(found)[0].startswith(f"{SMALL.name} on mmlu (2 tasks): ")


def test_a_task_group_contains_all_its_tasks_or_its_name_says_how_many(tmp_path):
    groups = {"anatomy": ("mmlu", True, "by itself"), "law": ("mmlu", True), "logic": ("mmlu", True)}
    store = study(tmp_path / "a", [SMALL, LARGE], tasks=tuple(groups), sites=("input",), groups=groups)
    assert "mmlu (3 tasks)" in set(compute_results(store).critical["task"])
    keep_sparse_trials(store, lambda r: (r.model.name, r.task.name) != (SMALL.name, "law"))
    found = compute_results(store).critical
    assert set(found[found["model"] == SMALL.name]["task"]) == {"anatomy", "logic", "mmlu (2 of 3 tasks)"}
    assert "mmlu (3 tasks)" in set(found[found["model"] == LARGE.name]["task"])
