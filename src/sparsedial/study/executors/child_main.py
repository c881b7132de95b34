"""Entry point of the child process that `SubprocessExecutor` starts.

The child reads a `WorkerSetup` and then jobs from stdin. It writes messages and outcomes to stdout.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from sparsedial.errors import SparsedialError
from sparsedial.study.executors.json_lines import receive_message, send_message
from sparsedial.study.job import Job, OutcomeKind
from sparsedial.study.output_encoding import make_output_encodable
from sparsedial.study.worker import Outcome, Worker, WorkerSetup


class DriverConnection:
    """Connection that sends messages, progress and outcomes to the driver.

    If the driver has died, messages are dropped, so that the current trial is still finished and stored.

    Args:
        stream: Stream that the driver reads.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def log(self, message: str) -> None:
        """Send one line for the driver to show.

        Args:
            message: Text without a trailing newline.
        """
        self.send({"log": message})

    def set_total(self, finished: float, total: float) -> None:
        """Do nothing. The driver counts the trials.

        Args:
            finished: Number of finished trials. It is not sent.
            total: Number of trials. It is not sent.
        """

    def set_current(self, description: str, finished: int, total: int) -> None:
        """Send the progress of the current job.

        Args:
            description: Description of the job, as one line.
            finished: Number of finished steps of the job.
            total: Number of steps of the job.
        """
        self.send({"current": [description, finished, total]})

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to the driver.

        Args:
            message: A JSON object with one key: "log", "current" or "outcome".
        """
        with suppress(OSError):
            send_message(self._stream, message)


def serve() -> None:
    """Run jobs that are read from stdin until it is closed."""
    # What a job prints goes to stderr and what it reads is empty, because stdin and stdout connect to the driver.
    connection = DriverConnection(os.fdopen(os.dup(1), "wb"))
    requests = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    make_output_encodable()
    run = _make_worker(receive_message(requests), connection)
    while True:
        message = receive_message(requests)
        if message is None:
            return
        connection.send({"outcome": run(message).to_json()})


def _make_worker(setup: dict[str, Any], connection: DriverConnection) -> Callable[[dict[str, Any]], Outcome]:
    """Return a function that runs a job. If the worker cannot be created, it returns the outcome that stops the run."""
    try:
        worker = Worker(WorkerSetup.from_json(setup), connection)
    except SparsedialError as error:
        outcome = Outcome(OutcomeKind.STOP, str(error), type(error).__name__)
        return lambda _: outcome
    return lambda message: worker.run(Job.from_json(message))


if __name__ == "__main__":
    serve()
