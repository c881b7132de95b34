"""Trials fail, workers die and drivers are killed: finished trials stay, and the others are run."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sparsedial.analysis.results import compute_results
from sparsedial.errors import NonFiniteError, NonFiniteOutputError, StorageError, TaskError
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.integrity import find_problems
from sparsedial.study.runner import run_study
from sparsedial.study.store import Store
from tests.support.processes import is_running, wait_until

IN_CHILD = ExecutorConfig(timeout=10.0)


def kinds(store):
    return [problem.kind for problem in find_problems(store)]


@pytest.mark.slow
def test_out_of_memory_is_tried_three_times(spec, tmp_path, orders, numbers):
    orders("oom", times=2)
    store = run_study(spec, tmp_path / "a")
    assert len(orders.strikes()) == 2
    assert kinds(store) == []
    whole = numbers(store)
    orders.withdraw()
    orders("oom", times=9)
    store = run_study(spec, tmp_path / "b")
    assert len(orders.strikes()) == 3
    assert kinds(store) == ["failed"]
    assert "out of memory" in find_problems(store)[0].text
    assert len(numbers(store)) == len(whole) - 1
    run_study(spec, tmp_path / "b")
    assert len(orders.strikes()) == 3, "a trial that was given up must not be tried again"
    orders.withdraw()
    store = run_study(spec, tmp_path / "b", retry_failed=True)
    assert kinds(store) == []
    assert numbers(store) == whole


def test_a_dense_trial_with_nan_is_invalid_and_names_the_module(spec, model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "damaged")
    weights = load_file(tmp_path / "damaged" / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "damaged" / "model.safetensors", metadata={"format": "pt"})
    spec = dataclasses.replace(spec, models=(str(tmp_path / "damaged"),))
    with pytest.raises(NonFiniteOutputError, match=r"model.layers.1.mlp.up_proj \(Linear\): its weight contains 1"):
        run_study(spec, tmp_path / "out")
    [problem] = find_problems(Store(tmp_path / "out"))
    assert problem.kind == "invalid" and "dense" in problem.text and "up_proj" in problem.text


def test_invalid_numbers_are_never_shown_and_the_other_trials_are_run(spec, tmp_path, orders):
    orders("nan", times=9)
    store = run_study(spec, tmp_path / "out")
    assert kinds(store) == ["invalid"]
    assert len(orders.strikes()) == 1, "another attempt would give the same numbers"
    points = compute_results(store).points
    assert points[points["site"] == "input"]["p"].tolist() == [0.5]
    assert any("sabotaged" in problem for problem in compute_results(store).problems)


@pytest.mark.parametrize("trial", ["self_prediction None", "self_prediction input", "self_prediction"])
def test_a_search_continues_without_failed_trials(spec, tmp_path, orders, trial):
    orders("nan", trial, times=99)
    search = dataclasses.replace(spec, values=None)
    if trial == "self_prediction input":
        store = run_study(search, tmp_path / "out")
        assert set(kinds(store)) == {"invalid"}
        assert {r.identity.site for r in store.trials()} == {None, "intermediate"}
    else:
        with pytest.raises(NonFiniteError, match="sabotaged"):
            run_study(search, tmp_path / "out")


def test_an_unexpected_error_keeps_its_traceback(spec, tmp_path, monkeypatch):
    from sparsedial.study.trial_evaluation import Trial

    run = Trial.run

    def broken(self, *args):
        return 1 / 0 if self.site == "input" else run(self, *args)

    monkeypatch.setattr(Trial, "run", broken)
    store = run_study(spec, tmp_path)
    assert kinds(store) == ["failed", "failed"]
    (attempt,) = store.failures(find_problems(store)[0].key)
    assert "ZeroDivisionError" in attempt.message
    assert "in broken" in attempt.message


def test_one_model_that_cannot_be_loaded_does_not_end_the_study(spec, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(spec.models[0], other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    both = dataclasses.replace(spec, models=(str(other), *spec.models))
    store = run_study(both, tmp_path / "out")
    assert kinds(store) == ["invalid"]
    assert "other, loading" in find_problems(store)[0].text
    assert len(list(store.trials())) == 5
    (other / "config.json").write_text(json.dumps(config))
    assert kinds(run_study(both, tmp_path / "out")) == []  # every run tries to load the model again


def test_a_task_with_nothing_to_retain_is_reported(spec, tmp_path):
    options = {**spec.task_options, "sequences": 1, "length": 1, "seed": 3, "metric": "agreement"}
    nothing = dataclasses.replace(spec, task_options=options)
    with pytest.raises(TaskError, match="nothing to retain"):
        run_study(nothing, tmp_path)
    assert kinds(Store(tmp_path)) == ["invalid"]


def test_a_failing_write_ends_the_study_and_names_the_path(spec, tmp_path, monkeypatch):
    link = os.link
    calls = iter(range(1, 1000))

    def full(*args):
        if next(calls) > 7:  # one to probe the directory
            raise OSError(28, os.strerror(28))
        return link(*args)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(StorageError, match=f"{tmp_path}.*No space left"):
        run_study(spec, tmp_path)
    monkeypatch.undo()
    assert kinds(Store(tmp_path)) == ["missing"] * 3 + ["stray"]
    assert kinds(run_study(spec, tmp_path)) == []


@pytest.mark.slow
def test_workers_that_are_killed_or_hang_are_replaced(spec, tmp_path, orders, numbers):
    """In one run, a worker dies after storing a trial, one hangs, and one trial kills every worker that runs it."""
    orders("kill", "self_prediction input 0.5", when="after")
    orders("hang", "self_prediction intermediate 0.5")
    orders("kill", "self_prediction intermediate 0.9", times=9)
    patient = dataclasses.replace(IN_CHILD, timeout=25.0)  # the first trial on a machine compiles the kernel
    store = run_study(spec, tmp_path / "out", executor=patient)
    assert [len(orders.strikes(n)) for n in range(3)] == [1, 1, 3]
    assert len({*orders.strikes(0), *orders.strikes(1), *orders.strikes(2)}) == 5  # processes
    (problem,) = find_problems(store)
    assert problem.kind == "failed"
    assert "intermediate top_p 0.9: killed in 3 attempt(s)" in problem.text
    run_study(spec, tmp_path / "out")  # given up, otherwise it would kill this process
    orders.withdraw()
    assert numbers(run_study(spec, tmp_path / "out", retry_failed=True)) == numbers(run_study(spec, tmp_path / "b"))


DRIVER = """
import json, sys
from pathlib import Path
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec
run_study(StudySpec.from_json(json.loads(sys.argv[1])), Path(sys.argv[2]), executor=ExecutorConfig(timeout=60))
"""


def test_a_worker_whose_driver_is_dead_stores_its_trial_and_ends(spec, tmp_path, orders):
    orders("nap")
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(spec.to_json()), str(tmp_path / "out")])
    deadline = time.monotonic() + 60
    while not orders.strikes() and time.monotonic() < deadline:
        time.sleep(0.05)
    (worker,) = orders.strikes()
    driver.kill()
    driver.wait()
    store = Store(tmp_path / "out")
    assert len(list(store.trials())) == 1
    while Path(f"/proc/{worker}/cmdline").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(list(store.trials())) == 2
    assert "input" in {r.identity.site for r in store.trials()}


@pytest.mark.parametrize(
    "timeout",
    [
        pytest.param((), id="in this process"),
        pytest.param(("--timeout", "300"), id="in a child process", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_run_although_a_task_waits_for_a_helper(spec, tmp_path, orders, timeout):
    """Only the driver gets the signal, as from a batch system."""
    orders("help", "self_prediction None")
    (tmp_path / "study.json").write_text(json.dumps(spec.to_json()))
    command = ["study", tmp_path / "study.json", "--out", tmp_path / "out", *timeout]
    driver = subprocess.Popen(
        [sys.executable, "-m", "sparsedial", *map(str, command)], stderr=subprocess.PIPE, text=True
    )
    (helper,) = wait_until(orders.helpers)
    driver.send_signal(signal.SIGTERM)
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 143, errors
    assert "run the same command again" in errors
    assert wait_until(lambda: not is_running(helper))


KILLED = """
import json, os, signal, sys
from pathlib import Path
import sparsedial.study.runner, transformers, pandas, pyarrow.parquet
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec

spec, folder, step = StudySpec.from_json(json.loads(sys.argv[1])), Path(sys.argv[2]), 0

def deadly(call, at):
    def wrapper(*args, **kwargs):
        global step
        result = call(*args, **kwargs)
        step += 1
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapper

for run in range(1, 100):
    child = os.fork()  # nothing has been computed in this process
    if child == 0:
        import torch
        torch.set_num_threads(1)
        for owner, name in ((os, "fsync"), (os, "link"), (Path, "replace")):
            setattr(owner, name, deadly(getattr(owner, name), 6 * run + 6))
        run_study(spec, folder)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != -signal.SIGKILL:
        print(run)
        sys.exit(status)
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_repeatedly_finishes_the_study(spec, tmp_path, numbers):
    """Each run is killed at a later write than the one before, until one run finishes."""
    command = [sys.executable, "-c", KILLED, json.dumps(spec.to_json()), str(tmp_path / "out")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) > 2
    assert not (tmp_path / "out" / "quarantine").exists()
    assert set(kinds(Store(tmp_path / "out"))) <= {"stray"}
    assert numbers(Store(tmp_path / "out")) == numbers(run_study(spec, tmp_path / "whole"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not a study"),
        ("{", "not a study"),
        ('{"version": 99, "models": ["m"]}', "version 99"),
        ("[1]", "not a study"),
    ],
)
def test_a_damaged_or_newer_study_is_refused_and_not_changed(spec, tmp_path, text, word):
    run_study(spec, tmp_path)
    (tmp_path / "study.json").write_text(text)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(StorageError, match=word):
        run_study(spec, tmp_path)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()} == before
    assert "unusable" in kinds(Store(tmp_path))


@pytest.mark.slow
def test_two_drivers_on_one_study(spec, tmp_path, numbers):
    script = DRIVER.replace("ExecutorConfig(timeout=60)", "ExecutorConfig()")
    command = [sys.executable, "-c", textwrap.dedent(script), json.dumps(spec.to_json()), str(tmp_path / "out")]
    drivers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for driver in drivers:
        assert driver.wait(timeout=120) == 0, driver.stderr.read()
        driver.stderr.close()
    assert find_problems(Store(tmp_path / "out")) == []
    assert numbers(Store(tmp_path / "out")) == numbers(run_study(spec, tmp_path / "whole"))


def test_ctrl_c_ends_a_study_and_finished_trials_stay(spec, tmp_path, monkeypatch):
    from sparsedial.study.trial_evaluation import Trial

    run = Trial.run

    def interrupted(self, *args):
        if self.site is not None:
            os.kill(os.getpid(), signal.SIGINT)
        return run(self, *args)

    monkeypatch.setattr(Trial, "run", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            run_study(spec, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(list(Store(tmp_path).trials())) == 1
