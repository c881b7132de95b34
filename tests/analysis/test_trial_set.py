"""Several studies read as one: each trial counts once, and what is wrong with a study is reported."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.errors import SpecError, StorageError
from sparsedial.study.sample_table import SampleLabels
from sparsedial.study.store import Store
from tests.support.made_up_studies import LARGE, SMALL, keep_sparse_trials, study

ONE_TASK = {"tasks": ("piqa",), "sites": ("input",)}


def test_the_same_trial_in_two_studies_counts_once(tmp_path):
    first = study(tmp_path / "a", [SMALL])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    alone, joined = compute_results(first), compute_results([first, Store(tmp_path / "b")])
    pd.testing.assert_frame_equal(joined.critical, alone.critical)
    pd.testing.assert_frame_equal(joined.points, alone.points)
    assert joined.problems == []
    assert joined.provenance["trials"] == alone.provenance["trials"]


def test_two_studies_of_one_model_give_the_results_of_one_study_of_both(tmp_path):
    both = compute_results(study(tmp_path / "both", [SMALL, LARGE]))
    parts = [study(tmp_path / "a", [SMALL]), study(tmp_path / "b", [SMALL, LARGE])]
    keep_sparse_trials(parts[1], lambda record: record.model.name == LARGE.name)
    joined = compute_results(parts)
    pd.testing.assert_frame_equal(joined.critical, both.critical)
    pd.testing.assert_frame_equal(joined.trends, both.trends)
    assert joined.critical["model"].drop_duplicates().tolist() == [SMALL.name, LARGE.name]


def test_a_trial_with_other_numbers_elsewhere_is_a_problem_and_the_first_counts(tmp_path):
    stores = [
        study(tmp_path / name, [model], **ONE_TASK) for name, model in (("a", SMALL), ("b", replace(SMALL, strength=3)))
    ]
    joined = compute_results(stores)
    pd.testing.assert_frame_equal(joined.critical, compute_results(stores[0]).critical)
    assert any("has other numbers than in" in problem and "'" in problem for problem in joined.problems)


def test_a_trial_with_more_numbers_elsewhere_is_no_problem(tmp_path):
    """A newer version may store further statistics of the same trial."""
    stores = [study(tmp_path / name, [SMALL], **ONE_TASK) for name in ("a", "b")]
    for record in list(stores[1].trials()):
        scores = stores[1].samples(record)
        stores[1].trial_path(record.key).unlink()
        details = {**record.result.details, "prompt_tokens": 5.0}
        labels = SampleLabels(columns={"prompt_tokens": 0 * scores + 5})
        stores[1].write_trial(replace(record, result=replace(record.result, details=details)), scores, labels)
    assert compute_results(stores).problems == []


def test_studies_that_require_different_retention_are_an_error(tmp_path):
    stores = [study(tmp_path / "a", [SMALL], **ONE_TASK), study(tmp_path / "b", [LARGE], **ONE_TASK, retain=0.9)]
    with pytest.raises(SpecError, match=r"0\.9, 0\.99.*--retain"):
        compute_results(stores)
    assert compute_results(stores, retain=0.95).retain == 0.95


def test_a_study_with_nothing_finished_is_a_problem_beside_others_and_an_error_alone(tmp_path):
    full, empty = study(tmp_path / "full", [SMALL], **ONE_TASK), Store.create(tmp_path / "empty")
    empty.write_spec(full.read_spec())
    assert any("no finished trial" in problem for problem in compute_results([full, empty]).problems)
    with pytest.raises(StorageError, match="no finished trial"):
        compute_results([empty])
    with pytest.raises(StorageError, match="at least one directory"):
        compute_results([])


def test_points_say_why_their_p_was_measured(tmp_path):
    grid = study(tmp_path / "grid", [SMALL], **ONE_TASK, values=(0.98, 0.9))
    search = study(tmp_path / "search", [SMALL], **ONE_TASK, values=(0.95, 0.9), search=True)
    chosen = compute_results([grid, search]).points.set_index("p")["chosen_by"]
    assert chosen.to_dict() == {0.98: "grid", 0.9: "grid", 0.95: "search"}


def test_many_problems_of_a_kind_are_counted_not_dropped(tmp_path):
    store = study(tmp_path / "a", [SMALL], tasks=("piqa", "sciq", "arc_easy"))
    keep_sparse_trials(store, lambda record: record.identity.rule.value == 0.9)
    problems = compute_results(store).problems
    missing = [problem for problem in problems if problem.startswith("missing")]
    assert len(missing) == 11 and "8 more" in missing[-1]  # 3 tasks x 2 sites x 3 values
