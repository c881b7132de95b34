"""Notes for readers who compare curves."""

from dataclasses import replace

import pytest

from sparsedial.analysis.results import compute_results
from tests.support.made_up_studies import LARGE, SMALL, keep_sparse_trials, study

ONE_TASK = {"tasks": ("piqa",), "sites": ("input",)}


def test_averages_over_different_tasks_are_named_and_not_compared(tmp_path):
    two = study(tmp_path / "two", [SMALL], sites=("input",))
    three = study(tmp_path / "three", [LARGE], tasks=("arc_easy", "piqa", "sciq"), sites=("input",))
    found = compute_results([two, three])
    assert {"average of arc_easy, piqa", "average of arc_easy, piqa, sciq"} <= set(found.critical["task"])
    assert any("not compared" in note for note in found.notes)
    assert set(found.trends["task"]) == {"arc_easy", "piqa"}
    assert not any("not compared" in note for note in compute_results([two]).notes)


def test_tasks_that_share_no_p_have_no_average_and_a_note_says_so(tmp_path):
    one = study(tmp_path / "a", [SMALL], ("piqa",), ("input",), values=(0.98, 0.9))
    other = study(tmp_path / "b", [SMALL], ("sciq",), ("input",), values=(0.97, 0.8))
    found = compute_results([one, other])
    assert set(found.critical["task"]) == {"piqa", "sciq"}
    assert any("No average" in note and "fam-100m, input" in note for note in found.notes)
    assert not any("No average" in note for note in compute_results([one]).notes)


@pytest.mark.parametrize(
    "studies",
    [
        [{"tasks": ("restoration", "denoising")}],
        [{"tasks": ("self_prediction",), "limit": limit} for limit in (100, 400)],
        [{"tasks": ("next_token",), "limit": limit} for limit in (100, 400)],
        [{"tasks": ("next_token", "self_prediction"), "limit": limit} for limit in (100, 400)],
    ],
    ids=["without data", "without data, two settings", "one task, two settings", "both"],
)
def test_tasks_that_are_not_averaged_at_any_p_have_no_note(tmp_path, studies):
    stores = [study(tmp_path / str(index), [SMALL], sites=("input",), **each) for index, each in enumerate(studies)]
    found = compute_results(stores)
    assert len(found.critical) > 1
    assert not any("No average" in note for note in found.notes)


def test_devices_mixed_within_a_curve_are_noted(tmp_path):
    stores = [study(tmp_path / device, [replace(SMALL, device=device)], **ONE_TASK) for device in ("cpu", "cuda")]
    assert not any("device" in note for note in compute_results(stores[1]).notes)
    keep_sparse_trials(stores[0], lambda record: record.identity.rule.value > 0.93)
    notes = compute_results(stores).notes
    assert any("different devices" in note and "fam-100m, input, piqa" in note for note in notes)
