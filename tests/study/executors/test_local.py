"""A child process is ended with everything that it has started, and nothing waits for what cannot be ended."""

import os
import signal
import subprocess
import sys

import pytest

from sparsedial.study.executors import local
from sparsedial.study.executors.local import SubprocessExecutor
from sparsedial.study.executors.process_tree import kill_session
from sparsedial.study.job import Job, OutcomeKind
from sparsedial.study.progress_listener import NullListener
from sparsedial.study.worker import WorkerSetup
from tests.support.processes import is_running, wait_until

# Helpers that a task may start: a fork as of multiprocessing, a process with a group of its own, one with a session of
# its own, and a daemon, whose parent is gone.
HELPERS = {
    "fork": "helper = os.fork()",
    "group": "helper = os.fork() or os.setpgid(0, 0) or 0",
    "session": "helper = os.fork() or os.setsid() or 0",
}

# The child serves one job as `child_main` does: it loads at once, and then starts a helper and hangs or dies.
CHILD = """
import json, os, signal, sys, time
sys.stdin.readline()
for line in sys.stdin:
    if json.loads(line)["task"] is None:
        outcome = {"kind": "finished", "message": "", "error": "", "resolved_model": None}
        print(json.dumps({"outcome": outcome}), flush=True)
        continue
    %s
    if helper == 0:
        time.sleep(600)
    print(json.dumps({"log": str(helper)}), flush=True)
    while %r == "chat":
        print(json.dumps({"current": ["job", 1, 2]}), flush=True)
    if %r == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
"""


class Log(NullListener):
    """Listener that keeps the messages."""

    def __init__(self):
        self.messages = []

    def log(self, message):
        self.messages.append(message)


@pytest.fixture
def executor(spec, tmp_path, monkeypatch):
    """Return a function that makes an executor whose child starts a helper."""
    log = Log()
    executors = []

    def make(helper, then, timeout=1.0):
        module = tmp_path / "helping_child.py"
        module.write_text(CHILD % (helper, then, then))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(local, "CHILD_MODULE", module.stem)
        executors.append(SubprocessExecutor(WorkerSetup(spec, tmp_path, "cpu"), log, timeout))
        executors[-1].take([Job("m", "t")])
        return executors[-1], log

    yield make
    for started in executors:
        started.close()
    for message in log.messages:
        if message.isdecimal() and is_running(message):
            os.kill(int(message), signal.SIGKILL)


@pytest.mark.parametrize("then", ["hang", "chat"])
@pytest.mark.parametrize("helper", HELPERS.values(), ids=HELPERS)
def test_a_trial_that_hangs_is_ended_with_its_helpers(executor, helper, then):
    started, log = executor(helper, then)
    _, outcome = started.wait()
    assert outcome.kind is OutcomeKind.TIMEOUT
    assert wait_until(lambda: not is_running(log.messages[0]))


@pytest.mark.parametrize("helper", HELPERS.values(), ids=HELPERS)
def test_a_worker_that_dies_is_noticed_although_a_helper_holds_its_pipe(executor, monkeypatch, helper):
    monkeypatch.setattr(local, "MAX_SECONDS_TO_READ", 0.2)
    started, _ = executor(helper, "die", timeout=300.0)
    _, outcome = started.wait()
    assert outcome.kind is OutcomeKind.KILLED
    assert "exit status -9" in outcome.message


def test_ctrl_c_ends_the_helpers_too(executor):
    started, log = executor(HELPERS["fork"], "hang", timeout=300.0)
    log.log = lambda message: (log.messages.append(message), os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            started.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    started.close()
    assert wait_until(lambda: not is_running(log.messages[0]))


def test_a_process_that_does_not_die_is_left_behind(executor, monkeypatch):
    monkeypatch.setattr(local, "kill_session", lambda leader: None)  # as a process that waits for a dead device
    monkeypatch.setattr(local, "MAX_SECONDS_TO_DIE", 0.05)
    stop = local._ChildProcess.stop
    children = []
    monkeypatch.setattr(local._ChildProcess, "stop", lambda self, timeout: children.append(self) or stop(self, timeout))
    started, log = executor(HELPERS["fork"], "hang", timeout=0.5)
    _, outcome = started.wait()
    assert outcome.kind is OutcomeKind.TIMEOUT
    assert "left behind" in log.messages[-1]
    (child,) = children
    kill_session(child.process.pid)
    assert stop(child, 20.0) == -signal.SIGKILL


def test_only_descendants_are_killed():
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    bystander = subprocess.Popen(command, start_new_session=True)
    script = f"""
import os, subprocess, sys, time
from sparsedial.study.executors.process_tree import kill_descendants
grandchild = [sys.executable, "-c", "import subprocess, sys, time; subprocess.Popen({command!r}); time.sleep(600)"]
helper = subprocess.Popen(grandchild)
time.sleep(0.5)
kill_descendants()
print(helper.wait())
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert process.stdout.strip() == "-9", process.stderr
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
