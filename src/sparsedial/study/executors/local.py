"""Executors that run one job at a time on this machine: in this process, or in a child process that can be killed."""

from __future__ import annotations

import math
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from sparsedial.study.executors.base import SingleJobExecutor
from sparsedial.study.executors.json_lines import receive_message, send_message
from sparsedial.study.executors.process_tree import kill_session
from sparsedial.study.job import Job, OutcomeKind
from sparsedial.study.progress_listener import ProgressListener
from sparsedial.study.worker import Outcome, Worker, WorkerSetup

CHILD_MODULE = "sparsedial.study.executors.child_main"

POLL_SECONDS = 0.2
"""Time between two checks whether the child process is alive and the time limit is reached."""

MAX_SECONDS_TO_READ = 5.0
"""Time to wait for a message of a child process that has died."""

MAX_SECONDS_TO_DIE = 10.0
"""Time to wait for the end of a process that was killed."""


class LocalExecutor(SingleJobExecutor):
    """Executor that runs one job at a time in this process.

    Args:
        worker: Runs the jobs.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def wait(self) -> tuple[Job, Outcome]:
        """Run the current job.

        Returns:
            The job and its outcome.
        """
        job = self.current_job
        return job, self._worker.run(job)

    def close(self) -> None:
        """Do nothing. No job is running between two calls."""


class SubprocessExecutor(SingleJobExecutor):
    """Executor that runs one job at a time in a child process, which is killed if a trial takes too long.

    The processes that the child has started are killed as well. If the driver dies, the child finishes and stores its
    current trial, and then exits.

    Args:
        setup: The study and the device.
        listener: Receives messages and progress.
        timeout: Seconds that one trial may take. The loading of the model does not count.
    """

    def __init__(self, setup: WorkerSetup, listener: ProgressListener, timeout: float) -> None:
        super().__init__()
        self._setup = setup
        self._listener = listener
        self._timeout = timeout
        self._child: _ChildProcess | None = None

    def wait(self) -> tuple[Job, Outcome]:
        """Load the model without a time limit, then run the current job.

        Returns:
            The job and its outcome.
        """
        job = self.current_job
        outcome = self._run(Job(job.model), None)
        if outcome.kind is OutcomeKind.FINISHED and job.task is not None:
            outcome = self._run(job, self._timeout)
        return job, outcome

    def close(self) -> None:
        """Kill the child process and the processes that it has started."""
        child = self._child
        self._child = None
        if child is None:
            return
        kill_session(child.process.pid)
        if child.stop(MAX_SECONDS_TO_DIE) is None:
            self._listener.log(
                f"the worker, process {child.process.pid}, does not react to SIGKILL. It may wait for a device or a "
                "network file system. It is left behind."
            )

    def _run(self, job: Job, timeout: float | None) -> Outcome:
        """Run a job in the child process, which is started if necessary and killed after ``timeout`` seconds."""
        if self._child is None:
            self._child = _ChildProcess(self._setup)
        child = self._child
        child.send(job.to_json())
        try:
            outcome = self._receive_outcome(child, timeout)
        except TimeoutError:
            self.close()
            return Outcome(OutcomeKind.TIMEOUT, f"took longer than {timeout:g} seconds")
        if outcome is not None:
            return outcome
        self.close()
        return Outcome(OutcomeKind.KILLED, f"its worker died with exit status {child.process.returncode}")

    def _receive_outcome(self, child: _ChildProcess, timeout: float | None) -> Outcome | None:
        """Forward messages to the listener and return the outcome. None if the child dies first."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            message = child.receive(deadline)
            if message is None:
                return None
            if "outcome" in message:
                return Outcome.from_json(message["outcome"])
            if "log" in message:
                self._listener.log(message["log"])
            if "current" in message:
                self._listener.set_current(*message["current"])


class _ChildProcess:
    """Child process in a session of its own, and a thread that reads its messages.

    Ctrl-C reaches only the driver, which then kills the child. A helper that the child has forked can hold the pipe
    open after the child's death, so the end of the pipe does not tell when the child has died.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", CHILD_MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read_messages, daemon=True).start()
        self.send(setup.to_json())

    def send(self, message: dict[str, Any]) -> None:
        """Send a message. A child that has died does not receive it."""
        with suppress(BrokenPipeError):
            send_message(self.process.stdin, message)

    def receive(self, deadline: float) -> Any:
        """Return the next message, or None if the child has died and left no message.

        Raises:
            TimeoutError: It is later than ``deadline``, in seconds of `time.monotonic`.
        """
        while True:
            remaining_seconds = deadline - time.monotonic()
            if remaining_seconds <= 0:
                raise TimeoutError
            has_died = self._has_died()
            try:
                return self._messages.get(
                    timeout=min(remaining_seconds, MAX_SECONDS_TO_READ if has_died else POLL_SECONDS)
                )
            except queue.Empty:
                if has_died:
                    return None

    def _has_died(self) -> bool:
        """Return True if the child has died. It is not waited for, so that no other process gets its number."""
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def stop(self, timeout: float) -> int | None:
        """Wait until the child has ended, and return its exit status. None if it does not end in time."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        return status

    def _read_messages(self) -> None:
        message: Any = ""
        while message is not None:
            message = receive_message(self.process.stdout)
            self._messages.put(message)
        if self.process.stdout is not None:
            self.process.stdout.close()
