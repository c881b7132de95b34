"""The preview of a study, compared with the trials that are then run."""

import dataclasses

import pytest

from sparsedial.study.adaptive_search import FIRST_DISTANCES, MAX_POINTS
from sparsedial.study.dry_run import preview_study
from sparsedial.study.runner import run_study
from sparsedial.study.store import Store


def preview(spec, folder):
    return preview_study(spec, Store(folder))


def test_a_grid_is_listed_trial_by_trial(spec, tmp_path):
    ahead = preview(spec, tmp_path / "out")
    assert (len(ahead.jobs), ahead.finished_trials, ahead.max_further_trials, ahead.seconds) == (5, 0, 0, None)
    assert not (tmp_path / "out").exists()
    store = run_study(spec, tmp_path / "out")
    assert len(list(store.trials())) == 5
    after = preview(spec, tmp_path / "out")
    assert (after.jobs, after.finished_trials, after.unresolved_models) == ([], 5, [])
    more = dataclasses.replace(spec, sites=None, values=(0.9, 0.7))
    ahead = preview(more, tmp_path / "out")
    assert ahead.finished_trials == 3  # dense, and 0.9 at the two sites that were there
    assert len(ahead.jobs) == 5 * 2 - 2
    mean = sum(r.seconds for r in store.trials()) / 5
    assert ahead.seconds == pytest.approx((len(ahead.jobs) * mean,) * 2)


def test_a_search_lists_its_first_trials_and_the_largest_number_of_further_ones(spec, tmp_path):
    search = dataclasses.replace(spec, values=None)
    ahead = preview(search, tmp_path / "out")
    assert len(ahead.jobs) == 1 + 2 * len(FIRST_DISTANCES)
    assert ahead.max_further_trials == 2 * (MAX_POINTS - len(FIRST_DISTANCES))
    store = run_study(search, tmp_path / "out")
    assert 1 + 2 * len(FIRST_DISTANCES) <= len(list(store.trials())) <= len(ahead.jobs) + ahead.max_further_trials
    assert preview(search, tmp_path / "out").jobs == []


def test_a_search_for_a_precision_can_add_values_and_examples(spec, tmp_path):
    options = {**spec.task_options, "sequences": 8}
    search = dataclasses.replace(spec, values=None, precision=3.0, max_examples=24, task_options=options)
    ahead = preview(search, tmp_path / "out")
    store = run_study(search, tmp_path / "out")
    finished = len(list(store.trials()))
    usual = preview(dataclasses.replace(search, precision=None, max_examples=None), tmp_path / "usual")
    assert len(usual.jobs) + usual.max_further_trials < finished <= len(ahead.jobs) + ahead.max_further_trials
