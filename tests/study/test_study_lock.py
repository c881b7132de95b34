"""Two different studies cannot run in one directory at the same time. The processes are real."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys

import pytest

from sparsedial.errors import StorageError
from sparsedial.study.runner import run_study
from sparsedial.study.study_lock import lock_study
from sparsedial.study.trial_evaluation import Trial

HOLDER = """
import json, os, sys, time
from pathlib import Path
from sparsedial.study.study_lock import lock_study
with lock_study(Path(sys.argv[1]), json.loads(sys.argv[2])):
    helper = os.fork()  # as a task may do
    if helper == 0:
        print(os.getpid(), flush=True)  # here, because the copy of the lock is closed before the fork returns
        time.sleep(600)
    sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path):
    """Return a function that starts a process which holds the lock for a study. Its helper outlives it."""
    processes = []
    helpers = []

    def start(study):
        command = [sys.executable, "-c", HOLDER, str(tmp_path), json.dumps(study)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        helpers.append(int(process.stdout.readline()))
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    for helper in helpers:
        os.kill(helper, 9)


def test_another_study_is_refused_until_the_last_process_dies(tmp_path, hold):
    first = hold({"models": ["a"]})
    second = hold({"models": ["a"]})  # the same study may be run twice
    for process in (first, second):
        words = rf"in use: process {first.pid} on .*another study.*--out"
        with pytest.raises(StorageError, match=words), lock_study(tmp_path, {"models": ["b"]}):
            pytest.fail("two studies at once")
        process.kill()
        process.wait()
    with lock_study(tmp_path, {"models": ["b"]}), lock_study(tmp_path, {"models": ["b"]}):
        pass


def test_another_study_is_refused_before_any_work(spec, tmp_path, monkeypatch):
    run = Trial.run
    started = []

    def run_another_study(self, *args):
        if not started:
            started.append(True)
            with pytest.raises(StorageError, match="in use"):
                run_study(dataclasses.replace(spec, values=(0.7,)), tmp_path)
        return run(self, *args)

    monkeypatch.setattr(Trial, "run", run_another_study)
    store = run_study(spec, tmp_path)
    assert started
    assert store.read_spec()["values"] == list(spec.values)
    assert not (tmp_path / "specs").exists()
    run_study(dataclasses.replace(spec, values=(0.7,)), tmp_path)  # one after the other


@pytest.mark.parametrize("text", ["", "[]", "half a rec"])
def test_a_damaged_lock_file_is_written_again(tmp_path, text):
    (tmp_path / "study.lock").write_text(text)
    with lock_study(tmp_path, {}):
        assert json.loads((tmp_path / "study.lock").read_text())["process"] == os.getpid()


def test_file_systems_without_locks_are_accepted(tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError("not supported")

    monkeypatch.setattr(fcntl, "flock", fail)
    with lock_study(tmp_path, {"models": ["a"]}), lock_study(tmp_path, {"models": ["b"]}):
        pass


def test_names_that_are_not_unicode(tmp_path):
    with lock_study(tmp_path, {"models": ["\udcff"]}):
        assert (tmp_path / "study.lock").stat().st_size > 0
