"""A study from start to finish: the files it writes, and that it resumes exactly where it stopped."""

import dataclasses
import json
import signal
import subprocess
import sys
import textwrap

import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.errors import NonFiniteError, SpecError, StorageError
from sparsedial.study import worker
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec
from sparsedial.study.trial_evaluation import Trial


def test_the_files_of_a_run(spec, tmp_path):
    store = run_study(spec, tmp_path)
    trials = list(store.trials())
    assert len(trials) == 1 + 2 * 2  # dense, and two values at two sites
    assert StudySpec.from_json(store.read_spec()) == spec
    for record in trials:
        assert len(store.samples(record)) == 8
        assert store.samples(record).mean() == record.result.score
        assert record.provenance.versions["torch"]
        path = tmp_path / "trials" / record.key[:2] / f"{record.key}.json"
        assert "NaN" not in path.read_text()
    results = compute_results(store)
    assert results.problems == []
    assert results.critical["site"].tolist() == ["input", "intermediate"]
    assert len(results.points) == 4
    assert set(results.layers["layer"]) == {0, 1, 2}


def test_finished_trials_are_not_run_again(spec, tmp_path, monkeypatch, numbers):
    first = numbers(run_study(spec, tmp_path))

    def fail(*_args, **_kwargs):
        raise AssertionError("a finished trial was run again")

    monkeypatch.setattr(Trial, "run", fail)
    assert numbers(run_study(spec, tmp_path)) == first


def test_extending_a_spec_adds_trials_and_keeps_the_old_spec(spec, tmp_path, numbers):
    first = numbers(run_study(spec, tmp_path))
    more = dataclasses.replace(spec, values=(0.9, 0.7, 0.5))
    both = numbers(run_study(more, tmp_path))
    assert len(both) == len(first) + 2
    assert {k: both[k] for k in first} == first
    assert len(list((tmp_path / "specs").iterdir())) == 1


def test_a_killed_run_resumes_with_the_same_numbers(spec, tmp_path, numbers):
    """A child process is killed after its third trial, then the same study is run again."""
    spec_file = tmp_path / "spec.json"
    spec_file.write_text(json.dumps(spec.to_json()))
    script = textwrap.dedent(
        """
        import json, os, signal, sys
        from pathlib import Path
        from sparsedial.study.runner import run_study
        from sparsedial.study.spec import StudySpec
        from sparsedial.study.store import Store

        write, count = Store.write_trial, 0
        def counted(self, record, samples, *labels):
            global count
            count += 1
            if count == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, record, samples, *labels)
        Store.write_trial = counted
        run_study(StudySpec.from_json(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
        """
    )
    folder = tmp_path / "killed"
    process = subprocess.run(
        [sys.executable, "-c", script, str(spec_file), str(folder)], capture_output=True, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(list((folder / "trials").glob("*/*.json"))) == 3
    resumed = numbers(run_study(spec, folder))
    whole = numbers(run_study(spec, tmp_path / "whole"))
    assert resumed == whole


def test_only_a_damaged_trial_is_run_again(spec, tmp_path, numbers):
    store = run_study(spec, tmp_path)
    first = numbers(store)
    path = sorted(tmp_path.glob("trials/*/*.json"))[2]
    path.write_bytes(path.read_bytes()[:-40])
    assert len(list(store.trials())) == len(first) - 1
    assert "set aside" in " ".join(compute_results(store).problems)
    repaired = run_study(spec, tmp_path)
    assert numbers(repaired) == first


def test_a_curve_with_lost_scores_is_reported_as_a_problem(spec, tmp_path):
    store = run_study(spec, tmp_path)
    sparse = next(r for r in store.trials() if r.identity.site == "input")
    (tmp_path / "samples" / f"{sparse.key}.parquet").unlink()
    results = compute_results(store)
    assert results.critical["site"].tolist() == ["intermediate"]
    assert any("input" in p and "run the study again" in p for p in results.problems)


def test_a_run_that_sees_nan_fails_and_names_the_layer(spec, tmp_path, monkeypatch):
    load = worker.load_language_model

    def damaged(*args, **kwargs):
        lm = load(*args, **kwargs)
        lm.model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
        return lm

    run_study(spec, tmp_path)  # stores the examples, so that the damaged model does not sample any
    monkeypatch.setattr(worker, "load_language_model", damaged)
    spec = dataclasses.replace(spec, values=(0.8,))
    with pytest.raises(NonFiniteError, match=r"layer\(s\) \[2\].*model.layers.2.mlp"):
        run_study(spec, tmp_path)


def test_all_problems_are_reported_at_once_before_a_model_is_loaded(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "load_language_model", None)
    bad = dataclasses.replace(
        spec, models=("/nowhere/at/all",), sites=("input", "output"), values=(0.5, 1.5), tasks=("no_such_task_here",),
        retain=2.0,
    )  # fmt: skip
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(SpecError) as error:
        run_study(bad, blocked)
    for word in (
        "6 problems",
        "/nowhere/at/all",
        "'output'",
        "1.5",
        "no_such_task_here",
        "retain",
        "cannot be written",
    ):
        assert word in str(error.value), word
    assert dataclasses.replace(spec, values=()).problems() == ["no values: expected at least one"]


def test_layers_and_search(spec, tmp_path):
    store = run_study(dataclasses.replace(spec, sites=("gate",), layers=(1,), values=None), tmp_path)
    results = compute_results(store)
    assert set(results.layers["layer"]) == {1}
    assert len(results.points) >= 3
    assert set(results.points["chosen_by"]) == {"search"}


def test_ffns_named_by_the_user_are_other_trials(spec, tmp_path):
    """Studies with and without --ffn must not share trials."""
    layer = "model.layers.0.mlp"
    by_hand = {"up": f"{layer}.up_proj", "gate": f"{layer}.gate_proj", "down": f"{layer}.down_proj"}
    first = compute_results(run_study(dataclasses.replace(spec, modules=by_hand), tmp_path))
    assert set(first.layers["layer"]) == {0}
    store = run_study(spec, tmp_path)
    assert len(list(store.trials())) == 1 + 4 + 4


def test_a_report_shows_the_last_settings_and_counts_the_other_trials(spec, tmp_path):
    run_study(spec, tmp_path)
    more = dataclasses.replace(spec, task_options={**spec.task_options, "sequences": 60})
    results = compute_results(run_study(more, tmp_path))
    assert results.critical["examples"].tolist() == [60, 60]
    assert results.provenance["trials of other settings, not shown"] == 5
    assert results.problems == []


def test_a_repaired_trial_is_no_problem(spec, tmp_path):
    run_study(spec, tmp_path)
    path = sorted(tmp_path.glob("trials/*/*.json"))[1]
    path.write_bytes(b"")
    assert compute_results(run_study(spec, tmp_path)).problems == []
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_the_default_sites_are_those_of_the_model(spec, tmp_path, gpt2):
    gpt2.save_pretrained(tmp_path / "gpt2")
    gpt2_spec = dataclasses.replace(spec, models=(str(tmp_path / "gpt2"),), sites=None)
    gpt2_spec = dataclasses.replace(gpt2_spec, task_options={**gpt2_spec.task_options, "sequences": 40})
    results = compute_results(run_study(gpt2_spec, tmp_path / "out"))
    assert results.critical["site"].tolist() == ["input", "up", "intermediate", "all_inputs"]


def test_an_unknown_layer_is_reported_before_anything_is_run(spec, tmp_path):
    with pytest.raises(SpecError, match=r"\[99\]"):
        run_study(dataclasses.replace(spec, layers=(99,)), tmp_path)
    assert not (tmp_path / "trials").exists()


def test_no_finished_trials_is_an_error(spec, tmp_path):
    from sparsedial.study.store import Store

    store = Store.create(tmp_path)
    store.write_spec(spec.to_json())
    with pytest.raises(StorageError, match="no finished trial"):
        compute_results(store)
    (tmp_path / "study.json").write_text("[1, 2]")
    with pytest.raises(StorageError, match="not a study"):
        compute_results(store)
