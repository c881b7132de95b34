"""What a dry run says, held against what is then run."""

import dataclasses

import pytest

from sparsedial.study.preview import preview
from sparsedial.study.run import run_study
from sparsedial.study.search import FIRST, MOST_POINTS
from sparsedial.study.store import Store


def look(spec, folder):
    return preview(spec, {task.name: task.identity() for task in spec.check()}, Store(folder))


def test_a_grid_is_listed_trial_by_trial(spec, tmp_path):
    ahead = look(spec, tmp_path / "out")
    assert (len(ahead.jobs), ahead.finished, ahead.further, ahead.seconds) == (5, 0, 0, None)
    assert not (tmp_path / "out").exists()
    store = run_study(spec, tmp_path / "out")
    assert len(list(store.trials())) == 5
    after = look(spec, tmp_path / "out")
    assert (after.jobs, after.finished, after.unknown) == ([], 5, [])
    more = dataclasses.replace(spec, sites=None, values=(0.9, 0.7))
    ahead = look(more, tmp_path / "out")
    assert ahead.finished == 3  # dense, and 0.9 at the two sites that were there
    assert len(ahead.jobs) == 5 * 2 - 2
    mean = sum(r["seconds"] for r in store.trials()) / 5
    assert ahead.seconds == pytest.approx((len(ahead.jobs) * mean,) * 2)


def test_a_search_says_its_first_trials_and_how_many_there_can_be(spec, tmp_path):
    search = dataclasses.replace(spec, values=None)
    ahead = look(search, tmp_path / "out")
    assert len(ahead.jobs) == 1 + 2 * len(FIRST)
    assert ahead.further == 2 * (MOST_POINTS - len(FIRST))
    store = run_study(search, tmp_path / "out")
    assert 1 + 2 * len(FIRST) <= len(list(store.trials())) <= len(ahead.jobs) + ahead.further
    assert look(search, tmp_path / "out").jobs == []
