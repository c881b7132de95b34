"""A study from start to finish: what it writes, and that it goes on exactly where it stopped."""

import dataclasses
import json
import signal
import subprocess
import sys
import textwrap

import pytest

from sparsedial.errors import NonFiniteError, SpecError, StoreError
from sparsedial.study import worker as running
from sparsedial.study.results import results
from sparsedial.study.run import run_study
from sparsedial.study.spec import StudySpec
from sparsedial.study.trial import Trial


def test_what_a_run_leaves(spec, tmp_path):
    store = run_study(spec, tmp_path)
    trials = list(store.trials())
    assert len(trials) == 1 + 2 * 2  # dense, and two values at two sites
    assert StudySpec.from_json(store.read_spec()) == spec
    for record in trials:
        assert len(store.samples(record)) == 8
        assert store.samples(record).mean() == record["result"]["score"]
        assert record["provenance"]["versions"]["torch"]
        path = tmp_path / "trials" / record["key"][:2] / f"{record['key']}.json"
        assert "NaN" not in path.read_text()
    found = results(store)
    assert found.problems == []
    assert found.critical["site"].tolist() == ["input", "intermediate"]
    assert len(found.points) == 4
    assert set(found.layers["layer"]) == {0, 1, 2}


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


def test_a_killed_run_goes_on_to_the_same_numbers(spec, tmp_path, numbers):
    """SIGKILL after the third trial, in a real child; then the same command again."""
    spec_file = tmp_path / "spec.json"
    spec_file.write_text(json.dumps(spec.to_json()))
    script = textwrap.dedent(
        """
        import json, os, signal, sys
        from pathlib import Path
        from sparsedial.study.run import run_study
        from sparsedial.study.spec import StudySpec
        from sparsedial.study.store import Store

        write, count = Store.write_trial, 0
        def counted(self, record, samples):
            global count
            count += 1
            if count == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, record, samples)
        Store.write_trial = counted
        run_study(StudySpec.from_json(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
        """
    )
    folder = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", script, str(spec_file), str(folder)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list((folder / "trials").glob("*/*.json"))) == 3
    resumed = numbers(run_study(spec, folder))
    whole = numbers(run_study(spec, tmp_path / "whole"))
    assert resumed == whole


def test_a_damaged_trial_is_set_aside_and_only_that_one_runs_again(spec, tmp_path, numbers):
    store = run_study(spec, tmp_path)
    first = numbers(store)
    path = sorted(tmp_path.glob("trials/*/*.json"))[2]
    path.write_bytes(path.read_bytes()[:-40])
    assert len(list(store.trials())) == len(first) - 1
    assert "set aside" in " ".join(results(store).problems)
    again = run_study(spec, tmp_path)
    assert numbers(again) == first


def test_lost_scores_are_a_problem_said_not_a_curve_left_out(spec, tmp_path):
    store = run_study(spec, tmp_path)
    sparse = next(r for r in store.trials() if r["identity"]["site"] == "input")
    (tmp_path / "samples" / f"{sparse['key']}.parquet").unlink()
    found = results(store)
    assert found.critical["site"].tolist() == ["intermediate"]
    assert any("input" in p and "run it again" in p for p in found.problems)


def test_a_run_that_sees_nan_fails_and_names_the_layer(spec, tmp_path, monkeypatch):
    load = running.load_model

    def damaged(*args, **kwargs):
        lm = load(*args, **kwargs)
        lm.model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
        return lm

    run_study(spec, tmp_path)  # healthy: its examples are kept, so that the damaged model need not sample any
    monkeypatch.setattr(running, "load_model", damaged)
    spec = dataclasses.replace(spec, values=(0.8,))
    with pytest.raises(NonFiniteError, match=r"layer\(s\) \[2\].*model.layers.2.mlp"):
        run_study(spec, tmp_path)


def test_all_problems_are_said_at_once_before_a_model_is_loaded(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "load_model", None)
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
    with pytest.raises(SpecError, match="no values"):
        dataclasses.replace(spec, values=()).check()


def test_layers_and_search(spec, tmp_path):
    store = run_study(dataclasses.replace(spec, sites=("gate",), layers=(1,), values=None), tmp_path)
    found = results(store)
    assert set(found.layers["layer"]) == {1}
    assert len(found.points) >= 3
    assert set(found.points["chosen_by"]) == {"search"}


def test_ffns_named_by_hand_are_other_trials(spec, tmp_path):
    """The same command with and without --ffn must not share trials."""
    layer = "model.layers.0.mlp"
    by_hand = {"up": f"{layer}.up_proj", "gate": f"{layer}.gate_proj", "down": f"{layer}.down_proj"}
    first = results(run_study(dataclasses.replace(spec, modules=by_hand), tmp_path))
    assert set(first.layers["layer"]) == {0}
    store = run_study(spec, tmp_path)
    assert len(list(store.trials())) == 1 + 4 + 4


def test_a_report_shows_the_last_settings_and_says_what_it_leaves_out(spec, tmp_path):
    run_study(spec, tmp_path)
    more = dataclasses.replace(spec, options=dataclasses.replace(spec.options, sequences=60))
    found = results(run_study(more, tmp_path))
    assert found.critical["examples"].tolist() == [60, 60]
    assert found.provenance["trials of other settings, not shown"] == 5
    assert found.problems == []


def test_a_repaired_trial_is_no_problem_any_more(spec, tmp_path):
    run_study(spec, tmp_path)
    path = sorted(tmp_path.glob("trials/*/*.json"))[1]
    path.write_bytes(b"")
    assert results(run_study(spec, tmp_path)).problems == []
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_sites_are_by_default_those_the_model_has(spec, tmp_path, gpt2):
    gpt2.save_pretrained(tmp_path / "gpt2")
    plain = dataclasses.replace(spec, models=(str(tmp_path / "gpt2"),), sites=None)
    plain = dataclasses.replace(plain, options=dataclasses.replace(plain.options, sequences=40))
    found = results(run_study(plain, tmp_path / "out"))
    assert found.critical["site"].tolist() == ["input", "up", "intermediate", "all_inputs"]


def test_a_layer_there_is_not_is_said_before_anything_is_run(spec, tmp_path):
    with pytest.raises(SpecError, match=r"\[99\]"):
        run_study(dataclasses.replace(spec, layers=(99,)), tmp_path)
    assert not (tmp_path / "trials").exists()


def test_no_finished_trials_is_an_error(spec, tmp_path):
    from sparsedial.study.store import Store

    store = Store.create(tmp_path)
    store.write_spec(spec.to_json())
    with pytest.raises(StoreError, match="no finished trial"):
        results(store)
    (tmp_path / "study.json").write_text("[1, 2]")
    with pytest.raises(StoreError, match="not a study"):
        results(store)
