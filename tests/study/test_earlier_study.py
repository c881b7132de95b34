"""A run that fails before its first trial leaves the study in its directory as it was."""

import dataclasses
import json
import shutil

import pytest

from sparsedial.errors import ModelError, SparsedialError
from sparsedial.study.integrity import find_problems
from sparsedial.study.progress_listener import NullListener
from sparsedial.study.runner import run_study
from sparsedial.study.store import Store


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "study.lock"}


def kinds(folder):
    return [problem.kind for problem in find_problems(Store(folder))]


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": (99,)},
        {"modules": {"up": "no_such_module", "down": "no_such_module"}},
        {"task_options": {"sequences": 8, "length": 1000}},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize("retry_failed", [False, True])
def test_a_changed_study_that_fails_does_not_replace_the_finished_one(spec, tmp_path, changes, retry_failed):
    run_study(spec, tmp_path)
    run_study(dataclasses.replace(spec, values=(0.9, 0.8)), tmp_path)  # there is an earlier study in specs/ as well
    before = contents(tmp_path)
    with pytest.raises(SparsedialError):
        run_study(dataclasses.replace(spec, **changes), tmp_path, retry_failed=retry_failed)
    assert contents(tmp_path) == before
    assert kinds(tmp_path) == []


def test_a_model_that_cannot_be_loaded_any_more_is_no_failure_of_the_finished_study(spec, model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "tiny")
    spec = dataclasses.replace(spec, models=(str(tmp_path / "tiny"),))
    run_study(spec, tmp_path / "out")
    before = contents(tmp_path / "out")
    config = json.loads((tmp_path / "tiny" / "config.json").read_text())
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(ModelError):
        run_study(spec, tmp_path / "out")
    assert contents(tmp_path / "out") == before


class InterruptingListener(NullListener):
    """Listener that stands for a user who presses Ctrl-C at the first message about a trial."""

    def set_current(self, description, finished, total):
        raise KeyboardInterrupt


def test_an_interrupt_before_the_first_trial_leaves_the_finished_study(spec, tmp_path):
    run_study(spec, tmp_path)
    before = contents(tmp_path)
    other = dataclasses.replace(spec, values=(0.7,))
    with pytest.raises(KeyboardInterrupt):
        run_study(other, tmp_path, listener=InterruptingListener())
    assert contents(tmp_path) == before


def test_the_failed_trials_of_an_unchanged_study_stay(spec, tmp_path, orders):
    with pytest.raises(KeyboardInterrupt):
        run_study(spec, tmp_path / "out", listener=InterruptingListener())
    assert "invalid" not in kinds(tmp_path / "out")
    orders("nan", "self_prediction", times=99)
    with pytest.raises(SparsedialError, match="sabotaged"):
        run_study(spec, tmp_path / "out")
    assert "invalid" in kinds(tmp_path / "out")


def test_a_study_whose_first_trial_is_finished_replaces_the_earlier_one(spec, tmp_path, orders):
    run_study(spec, tmp_path / "out")
    orders("nan", "self_prediction input", times=99)
    orders("nan", "self_prediction intermediate", times=99)
    other = dataclasses.replace(spec, task_options={**spec.task_options, "seed": 5})
    with pytest.raises(SparsedialError, match="sabotaged"):
        run_study(other, tmp_path / "out")
    assert Store(tmp_path / "out").read_spec()["task_options"]["seed"] == 5
