"""Files that survive: kills at every write step, full disks, failing fsyncs, damage at every byte, two writers."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedial.errors import StoreError
from sparsedial.study import store as stores
from sparsedial.study.store import STALE, Store, digest, sealed

SCORES = np.array([0.5, 0.25, 1.0])


def record(number=0, score=0.5):
    identity = {"number": number, "model": {"weights": "0" * 64}}
    return {
        "key": digest(identity),
        "identity": identity,
        "labels": {"model": "tiny", "task": "made_up"},
        "result": {"score": score, "examples": 3, "sparsity": 0.30000000000000004, "tiny": 1e-12},
        "stats": [{"layer": 0, "expert": None, "dropped": 3, "total": 10}],
        "seconds": 0.1,
    }


def commit(folder, number=0, score=0.5, scores=SCORES):
    store = Store.create(folder)
    store.write_trial(record(number, score), scores)
    return store, record(number)["key"]


STEPS = """
import os, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_store import commit
import pandas, pyarrow.parquet

folder, step = Path(sys.argv[1]), 0
commit(folder / "warm", 9)  # so that all is imported before the first fork

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
        calls = [(os, "fsync"), (os, "link"), (os, "open"), (Path, "open"), (Path, "unlink"), (Path, "mkdir")]
        for owner, name in calls:
            setattr(owner, name, deadly(getattr(owner, name), at))
        commit(folder / str(at))
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
print(at)
"""


def test_a_kill_at_every_write_step_loses_nothing_and_leaves_no_half_trial(tmp_path):
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", STEPS, str(tmp_path), here], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 35
    committed = 0
    for at in range(1, steps):
        store, key = Store(tmp_path / str(at)), record()["key"]
        kept = store.whole_trial(key)
        assert not (tmp_path / str(at) / "quarantine").exists()  # nothing damaged bears a trial's name
        committed += kept is not None
        again, _ = commit(tmp_path / str(at))
        assert again.samples(again.trial(key)).tolist() == SCORES.tolist()
        assert not (tmp_path / str(at) / "conflicts").exists()
    assert 0 < committed < steps


def test_no_half_written_file_bears_a_name_when_the_disk_is_full(tmp_path):
    """RLIMIT_FSIZE: the write is cut short, then refused."""
    store, first = commit(tmp_path, 0)
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_store import commit
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        commit(Path(sys.argv[1]), 1)
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert str(tmp_path) in done.stderr
    assert "could not be written" in done.stderr
    assert [r["key"] for r in store.trials()] == [first]
    assert not list(tmp_path.glob("**/.*"))
    _, second = commit(tmp_path, 1)  # space again
    assert {r["key"] for r in store.trials()} == {first, second}


def failing(call, error, times):
    """``call``, which fails the ``times``-th time."""
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
    if call == "link" and times > 2:
        times -= 2  # there are two links in a commit
    monkeypatch.setattr(os, call, failing(getattr(os, call), error, times))
    with pytest.raises(StoreError, match=str(tmp_path)):
        commit(tmp_path)
    monkeypatch.undo()
    store = Store(tmp_path)
    assert all(store.samples(r).tolist() == SCORES.tolist() for r in store.trials())
    store, key = commit(tmp_path)
    assert store.whole_trial(key) is not None


def test_a_record_cut_at_any_byte_is_set_aside_and_named(tmp_path):
    store, key = commit(tmp_path)
    path = store.trial_path(key)
    whole = path.read_bytes()
    assert sealed(whole, key) is not None
    for length in range(len(whole)):
        assert sealed(whole[:length], key) is None, length
    for damaged in (b"", whole[:-1], b"\x00" * 200, b"garbage", b"[]", b"null", whole.replace(b"made_up", b"made_uq")):
        path.write_bytes(damaged)
        assert store.trial(key) is None
        assert not path.exists()
    assert len(list((tmp_path / "quarantine").glob(f"{key}.json.*"))) == 7


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_seen_or_changes_nothing(data):
    whole = record()
    whole["schema"] = stores.SCHEMA
    whole["sha256"] = digest(whole)
    text = bytearray(stores.canonical(whole).encode())
    byte, bit = data.draw(st.integers(0, len(text) - 1)), data.draw(st.integers(0, 7))
    text[byte] ^= 1 << bit
    found = sealed(bytes(text), whole["key"])
    assert found is None or found == {k: v for k, v in whole.items() if k != "sha256"}


def test_lost_or_damaged_scores_let_the_trial_run_again(tmp_path):
    store, key = commit(tmp_path)
    (scores,) = (tmp_path / "samples").iterdir()
    scores.write_bytes(scores.read_bytes()[:-1])
    assert store.trial(key) is not None
    assert store.whole_trial(key) is None
    store, key = commit(tmp_path)  # the damaged file still has the name
    assert store.samples(store.whole_trial(key)).tolist() == SCORES.tolist()


def test_the_same_trial_twice_keeps_the_first_and_the_conflict(tmp_path):
    store, key = commit(tmp_path)
    first = store.trial(key)
    commit(tmp_path)  # the same numbers: nothing to say
    assert not (tmp_path / "conflicts").exists()
    commit(tmp_path, score=0.75, scores=SCORES + 0.25)
    assert store.trial(key) == first
    assert store.samples(first).tolist() == SCORES.tolist()
    (conflict,) = (tmp_path / "conflicts").iterdir()
    second = sealed(conflict.read_bytes(), key)
    assert second["result"]["score"] == 0.75
    assert store.samples(second).tolist() == (SCORES + 0.25).tolist()


def test_many_writers_of_one_trial_leave_one_whole_trial(tmp_path):
    """Eight processes at once; whoever links first wins, and the scores that count are the winner's."""
    script = textwrap.dedent(
        """
        import os, sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_store import SCORES, commit
        folder, writers = Path(sys.argv[1]), 8
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
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path)
    found = list(store.trials())
    assert len(found) == 20
    for trial in found:
        assert store.samples(trial).tolist() == (SCORES + trial["result"]["score"]).tolist()
    assert len(list((tmp_path / "conflicts").iterdir())) == 20 * 7


def test_temporary_files_of_dead_runs_go_when_they_are_old(tmp_path):
    commit(tmp_path)
    young, old = tmp_path / "trials" / ".a.json.0123abcd", tmp_path / "samples" / ".b.parquet.0123abcd"
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * STALE,) * 2)
    Store.create(tmp_path)
    assert young.exists()
    assert not old.exists()


def test_a_directory_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="file"):
        Store.create(tmp_path / "file")
    with pytest.raises(StoreError, match="/proc/nowhere"):
        Store.create(Path("/proc/nowhere"))


def test_failures_are_kept_and_forgotten(tmp_path):
    store = Store.create(tmp_path)
    store.write_failure("ab", "oom", "out of memory", {"model": "m"})
    store.write_failure("ab", "killed", "died", {"model": "m"})
    assert [f["kind"] for f in store.failures("ab")] == ["oom", "killed"]
    next((tmp_path / "failed" / "ab").iterdir()).write_bytes(b"{")
    assert sorted(f["kind"] for f in store.failures("ab"))[-1] == "unreadable"
    store.forget_failures("ab")
    assert store.failures("ab") == []


def test_records_are_strict_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        commit(tmp_path, score=float("nan"))
    store, key = commit(tmp_path)
    assert json.loads(store.trial_path(key).read_text(), parse_constant=pytest.fail)
