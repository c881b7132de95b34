"""The store survives kills at every write step, full disks, failing system calls, damaged files and many writers."""

import errno
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from sparsedial.errors import StorageError
from sparsedial.files import ExclusiveMove
from sparsedial.rules import TopP
from sparsedial.study.job import FailureRecord, Job, OutcomeKind
from sparsedial.study.records import TrialRecord
from sparsedial.study.store import Store
from sparsedial.study.verified_records import decode_record
from tests.support.file_systems import allow_only
from tests.support.trial_records import make_record

KEY = "ab" * 32
MOVES = [
    ExclusiveMove.HARD_LINK,
    pytest.param(ExclusiveMove.LOCK, marks=pytest.mark.slow),
    pytest.param(ExclusiveMove.EXCLUSIVE_RENAME, marks=pytest.mark.slow),
]
SCORES = np.array([0.5, 0.25, 1.0])


def commit(folder, number=0, score=0.5, scores=SCORES):
    store = Store.create(folder)
    store.write_trial(make_record(number, score), scores)
    return store, make_record(number).key


STEPS = """
import os, signal, sys
from pathlib import Path
import numpy as np
from sparsedial import files
from tests.study.test_store import commit
from tests.support.file_systems import allow_only
import pandas, pyarrow.parquet

folder, step = Path(sys.argv[1]), 0
allow_only(sys.argv[2])
commit(folder / "warm", 9)  # imports everything before the first fork

def count(at):
    global step
    step += 1
    if step == at:
        os.kill(os.getpid(), signal.SIGKILL)

def deadly(call, at):
    def wrapper(*args, **kwargs):
        count(at)
        result = call(*args, **kwargs)
        count(at)
        return result
    return wrapper

for at in range(1, 1000):
    child = os.fork()
    if child == 0:
        calls = [(os, "fsync"), (os, "link"), (os, "open"), (Path, "open"), (Path, "unlink"), (Path, "mkdir"),
                 (Path, "rename"), (files, "rename_exclusively")]
        for owner, name in calls:
            setattr(owner, name, deadly(getattr(owner, name), at))
        commit(folder / str(at))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
print(at)
"""


@pytest.mark.parametrize("move", MOVES)
def test_a_kill_at_every_write_step_loses_nothing_and_leaves_no_half_trial(tmp_path, monkeypatch, move):
    process = subprocess.run([sys.executable, "-c", STEPS, str(tmp_path), move], capture_output=True, text=True)
    allow_only(move, patch=monkeypatch)
    assert process.returncode == 0, process.stderr
    steps = int(process.stdout)
    assert steps > 35
    committed = 0
    for at in range(1, steps):
        store, key = Store(tmp_path / str(at)), make_record().key
        record = store.complete_trial(key)
        assert not (tmp_path / str(at) / "quarantine").exists()  # no damaged file has the name of a trial
        committed += record is not None
        reopened, _ = commit(tmp_path / str(at))
        assert reopened.samples(reopened.trial(key)).tolist() == SCORES.tolist()
        assert not (tmp_path / str(at) / "conflicts").exists()
    assert 0 < committed < steps


def test_a_full_disk_leaves_no_half_written_file(tmp_path):
    """RLIMIT_FSIZE cuts the first write short and refuses the next one."""
    store, first = commit(tmp_path, 0)
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from tests.study.test_store import commit
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        commit(Path(sys.argv[1]), 1)
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode != 0
    assert str(tmp_path) in process.stderr
    assert "could not be written" in process.stderr
    assert [r.key for r in store.trials()] == [first]
    assert not list(tmp_path.glob("**/.*"))
    _, second = commit(tmp_path, 1)  # space again
    assert {r.key for r in store.trials()} == {first, second}


def failing(call, error, times):
    """Return a function like ``call`` that fails the ``times``-th time."""
    count = iter(range(1, 1000))

    def wrapper(*args):
        if next(count) == times:
            raise OSError(error, os.strerror(error))
        return call(*args)

    return wrapper


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["fsync", "link"])
@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_a_failing_call_is_an_error_that_names_the_path(tmp_path, monkeypatch, call, times, error):
    if call == "link" and times > 3:
        times -= 3  # there are three links: one to probe the directory, and two in a commit
    monkeypatch.setattr(os, call, failing(getattr(os, call), error, times))
    with pytest.raises(StorageError, match=str(tmp_path)):
        commit(tmp_path)
    monkeypatch.undo()
    store = Store(tmp_path)
    assert all(store.samples(r).tolist() == SCORES.tolist() for r in store.trials())
    store, key = commit(tmp_path)
    assert store.complete_trial(key) is not None


def test_lost_or_damaged_scores_let_the_trial_run_again(tmp_path):
    store, key = commit(tmp_path)
    (scores,) = (tmp_path / "samples").iterdir()
    scores.write_bytes(scores.read_bytes()[:-1])
    assert store.trial(key) is not None
    assert store.complete_trial(key) is None
    store, key = commit(tmp_path)  # the damaged file still occupies the name
    assert store.samples(store.complete_trial(key)).tolist() == SCORES.tolist()


def test_the_same_trial_twice_keeps_the_first_and_the_conflict(tmp_path):
    store, key = commit(tmp_path)
    first = store.trial(key)
    commit(tmp_path)  # the same numbers are no conflict
    assert not (tmp_path / "conflicts").exists()
    commit(tmp_path, score=0.75, scores=SCORES + 0.25)
    assert store.trial(key) == first
    assert store.samples(first).tolist() == SCORES.tolist()
    (conflict,) = (tmp_path / "conflicts").iterdir()
    second = TrialRecord.from_json(decode_record(conflict.read_bytes(), key))
    assert second.result.score == 0.75
    assert store.samples(second).tolist() == (SCORES + 0.25).tolist()


@pytest.mark.parametrize("move", MOVES)
def test_many_writers_of_one_trial_leave_one_whole_trial(tmp_path, move):
    """Eight processes write at once. The first one to move its file wins, and its scores are the ones that count."""
    script = textwrap.dedent(
        """
        import os, sys, time
        from pathlib import Path
        from tests.study.test_store import SCORES, commit
        from tests.support.file_systems import allow_only
        folder, writers = Path(sys.argv[1]), 8
        allow_only(sys.argv[2])
        commit(folder / "warm")
        start = time.monotonic() + 0.3
        children = []
        for number in range(writers):
            child = os.fork()
            if child == 0:
                while time.monotonic() < start:
                    pass
                for trial in range(20):
                    commit(folder, trial, score=float(number), scores=SCORES + number)
                os._exit(0)
            children.append(child)
        sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path), move]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    store = Store(tmp_path)
    trials = list(store.trials())
    assert len(trials) == 20
    for trial in trials:
        assert store.samples(trial).tolist() == (SCORES + trial.result.score).tolist()
    assert len(list((tmp_path / "conflicts").glob("*.json"))) == 20 * 7


def test_failures_are_stored_and_forgotten(tmp_path):
    store = Store.create(tmp_path)
    store.write_failure(FailureRecord(KEY, OutcomeKind.OUT_OF_MEMORY, "out of memory", Job("m")))
    store.write_failure(FailureRecord(KEY, OutcomeKind.KILLED, "died", Job("m", "t", "input", TopP(0.9))))
    assert [f.kind for f in store.failures(KEY)] == ["oom", "killed"]
    next((tmp_path / "failed" / KEY).iterdir()).write_bytes(b"{")
    assert sorted(f.kind for f in store.failures(KEY))[-1] == "unreadable"
    store.forget_failures(KEY)
    assert store.failures(KEY) == []


def test_records_are_strict_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        commit(tmp_path, score=float("nan"))
    store, key = commit(tmp_path)
    assert json.loads(store.trial_path(key).read_text(), parse_constant=pytest.fail)
