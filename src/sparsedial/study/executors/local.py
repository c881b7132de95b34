"""Executors that run one job at a time on this machine: in this process, or in a child process that can be killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sparsedial.study.executors.base import SingleJobExecutor
from sparsedial.study.executors.json_lines import receive_message, send_message
from sparsedial.study.job import Job, OutcomeKind
from sparsedial.study.progress_listener import ProgressListener
from sparsedial.study.worker import Outcome, Worker, WorkerSetup

CHILD_MODULE = "sparsedial.study.executors.child_main"


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

    If the driver dies, the child finishes and stores its current trial, and then exits.

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
        self._child: subprocess.Popen[bytes] | None = None

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
        """Kill the child process."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _run(self, job: Job, timeout: float | None) -> Outcome:
        """Run a job in the child process, which is started if necessary and killed after ``timeout`` seconds."""
        child = self._child or self._start()
        with _deadline(timeout, child.kill) as expired:
            with suppress(BrokenPipeError):
                send_message(child.stdin, job.to_json())
            outcome = self._receive_outcome(child)
        if outcome is not None:
            return outcome
        exit_status = child.wait()
        self.close()
        if expired.is_set():
            return Outcome(OutcomeKind.TIMEOUT, f"took longer than {timeout:g} seconds")
        return Outcome(OutcomeKind.KILLED, f"its worker died with exit status {exit_status}")

    def _receive_outcome(self, child: subprocess.Popen[bytes]) -> Outcome | None:
        """Forward messages to the listener and return the outcome. None if the child dies first."""
        while True:
            message = receive_message(child.stdout)
            if message is None:
                return None
            if "outcome" in message:
                return Outcome.from_json(message["outcome"])
            if "log" in message:
                self._listener.log(message["log"])
            if "current" in message:
                self._listener.set_current(*message["current"])

    def _start(self) -> subprocess.Popen[bytes]:
        # The child has a session of its own, so that Ctrl-C reaches only the driver, which then kills the child.
        self._child = subprocess.Popen(
            [sys.executable, "-m", CHILD_MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        with suppress(BrokenPipeError):
            send_message(self._child.stdin, self._setup.to_json())
        return self._child


@contextmanager
def _deadline(timeout: float | None, kill: Callable[[], None]) -> Iterator[threading.Event]:
    """Call ``kill`` if the ``with`` block takes longer than ``timeout`` seconds. The event is set if it was called."""
    expired = threading.Event()
    if timeout is None:
        yield expired
        return

    def expire() -> None:
        expired.set()
        kill()

    timer = threading.Timer(timeout, expire)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
