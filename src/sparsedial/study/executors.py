"""Where jobs are run: in this process, or in a child that can be killed. `on_ray` has the third."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from sparsedial.errors import SpecError
from sparsedial.study.plan import Job
from sparsedial.study.spec import StudySpec
from sparsedial.study.worker import Outcome, Watcher, Worker


@dataclass(frozen=True)
class Workers:
    """Where a study's trials are run.

    Attributes:
        kind: ``local`` (one trial at a time, here) or ``ray``.
        timeout: seconds that a trial may take, its examples included; then its worker is killed.
        address: of a Ray cluster; without one, the one that is running here, or a new one on this machine.
        number: of workers, by default as many as there is room for. gpus, cpus: of each.
    """

    kind: str = "local"
    timeout: float | None = None
    address: str | None = None
    number: int | None = None
    gpus: float | None = None
    cpus: float = 1.0

    def problems(self) -> list[str]:
        """What is wrong with these numbers, a line each."""
        found = [f"workers {self.kind!r}: expected local or ray"] if self.kind not in ("local", "ray") else []
        positive = {"timeout": self.timeout, "num_workers": self.number, "cpus_per_worker": self.cpus}
        for name, number in positive.items():
            if number is not None and not 0.0 < number < float("inf"):
                found.append(f"{name} {number}: expected a number above 0")
        if self.gpus is not None and not 0.0 <= self.gpus < float("inf"):
            found.append(f"gpus_per_worker {self.gpus}: expected 0 or more")
        if self.kind == "local" and (self.address or self.number or self.gpus or self.cpus != 1.0):
            found.append("address, number, GPUs and CPUs of workers are for --workers ray")
        return found


class Executor(Protocol):
    """Runs jobs. A driver lets it take what it has room for, and waits for one to end."""

    def take(self, jobs: list[Job]) -> list[Job]:
        """Start some of these, the first ones first, and say which."""

    def wait(self) -> tuple[Job, Outcome]:
        """Wait until one that was taken has ended."""

    def close(self) -> None:
        """Stop all that is still running."""


class _OneAtATime:
    """What an executor is that has room for one job."""

    job: Job | None = None

    def take(self, jobs: list[Job]) -> list[Job]:
        """The first."""
        self.job = jobs[0] if jobs else None
        return jobs[:1]

    def taken(self) -> Job:
        """The one to run now."""
        if self.job is None:
            raise RuntimeError("nothing was taken")
        return self.job


class InProcess(_OneAtATime):
    """One job at a time, in this process."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def wait(self) -> tuple[Job, Outcome]:
        """Run it."""
        job = self.taken()
        return job, self.worker.run(job)

    def close(self) -> None:
        """Nothing runs between two calls."""


class InChild(_OneAtATime):
    """One job at a time in a child process, which is killed when a trial takes longer than ``timeout`` seconds.

    The two talk in lines of JSON. A child whose driver has died finishes and commits its trial, and ends.
    """

    def __init__(self, spec: StudySpec, folder: Path, device: str, watcher: Watcher, timeout: float) -> None:
        self.setup = {"spec": spec.to_json(), "folder": str(folder.resolve()), "device": device}
        self.watcher, self.timeout = watcher, timeout
        self.child: subprocess.Popen[bytes] | None = None

    def wait(self) -> tuple[Job, Outcome]:
        """Run it: first the model is loaded, for as long as that takes, then the clock starts."""
        job = self.taken()
        outcome = self._ask(Job(job.model), None)
        if outcome.kind == "finished" and job.task is not None:
            outcome = self._ask(job, self.timeout)
        return job, outcome

    def close(self) -> None:
        """Kill the child."""
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    def _ask(self, job: Job, timeout: float | None) -> Outcome:
        child = self.child or self._start()
        late = threading.Event()

        def kill() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(timeout, kill) if timeout is not None else None
        try:
            with suppress(BrokenPipeError):
                _send(child.stdin, asdict(job))
            if timer is not None:
                timer.start()
            while line := (child.stdout.readline() if child.stdout else b""):
                message = json.loads(line)
                if "outcome" in message:
                    return Outcome.from_json(message["outcome"])
                if "say" in message:
                    self.watcher.say(message["say"])
                if "work" in message:
                    self.watcher.work(*message["work"])
        finally:
            if timer is not None:
                timer.cancel()
        code = child.wait()
        self.close()
        if late.is_set():
            return Outcome("timeout", f"took longer than {timeout:g} seconds")
        return Outcome("killed", f"its worker died with exit status {code}")

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "sparsedial.study.executors"]
        # In a session of its own: Ctrl-C is for the driver, which then ends its child.
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        with suppress(BrokenPipeError):
            _send(self.child.stdin, self.setup)
        return self.child


class _Lines:
    """A watcher that tells the driver; one that has died is told nothing, and the trial goes on."""

    def __init__(self, to: IO[bytes]) -> None:
        self.to = to

    def say(self, message: str) -> None:
        self.tell({"say": message})

    def expect(self, done: float, of: float) -> None:
        """The driver knows."""

    def work(self, what: str, done: int, of: int) -> None:
        self.tell({"work": [what, done, of]})

    def tell(self, message: dict[str, Any]) -> None:
        with suppress(OSError):
            _send(self.to, message)


def _send(to: IO[bytes] | None, message: dict[str, Any]) -> None:
    if to is not None:
        to.write(json.dumps(message).encode() + b"\n")
        to.flush()


def _serve() -> None:
    """The child: setup, then jobs, from stdin; what it has to say goes to what was stdout, and prints to stderr."""
    lines = _Lines(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.buffer.readline())
    worker = Worker(StudySpec.from_json(setup["spec"]), Path(setup["folder"]), setup["device"], lines)
    while line := sys.stdin.buffer.readline():
        lines.tell({"outcome": worker.run(Job(**json.loads(line))).to_json()})


def make_executor(
    workers: Workers, spec: StudySpec, folder: Path, device: str, watcher: Watcher, tasks: list[Any]
) -> Executor:
    """The executor that is asked for.

    Raises:
        SpecError: Ray is not installed, or its cluster can never hold such a worker.
    """
    if workers.kind == "ray":
        from sparsedial.study.on_ray import OnRay

        return OnRay(workers, spec, folder, device, watcher)
    if workers.kind != "local":
        raise SpecError(workers.problems()[0])
    if workers.timeout is not None:
        return InChild(spec, folder, device, watcher, workers.timeout)
    return InProcess(Worker(spec, folder, device, watcher, tasks))


if __name__ == "__main__":
    _serve()
