"""Workers on Ray: an actor for each GPU, or CPU slot, keeps one model loaded and takes trials of it.

The workers write finished trials themselves, so the study's folder must be one that all machines see.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import Any

import torch

from sparsedial.errors import SparsedialError, SpecError
from sparsedial.study.executors import Workers
from sparsedial.study.plan import Job
from sparsedial.study.spec import StudySpec
from sparsedial.study.worker import Outcome, Silent, Watcher, Worker

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class RemoteWorker:
    """What an actor is: a `Worker` that is made with its first job, and speaks JSON."""

    def __init__(self, spec: dict[str, Any], folder: str, device: str, seal: str) -> None:
        self.spec, self.folder, self.device, self.seal = spec, Path(folder), device, seal
        self.worker: Worker | None = None

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """An `Outcome` as JSON."""
        try:
            if self.worker is None:
                if _seal(self.folder) != self.seal:
                    raise SpecError(
                        f"a worker does not see the study in {str(self.folder)!r}: expected a folder that is shared "
                        "by all machines of the cluster. Give another --out."
                    )
                self.worker = Worker(StudySpec.from_json(self.spec), self.folder, self.device, Silent())
        except SparsedialError as error:
            return Outcome("stop", str(error)).to_json()
        return self.worker.run(Job(**job)).to_json()

    def threads(self) -> dict[str, Any]:
        """How many threads this process computes with, and what told it so."""
        return {"torch": torch.get_num_threads()} | {name: os.environ.get(name) for name in THREADS}


@dataclass
class _Slot:
    """One actor: the model it holds, the job it has, and what it was asked for now (loading, or the job itself)."""

    actor: Any
    model: str
    job: Job | None = None
    asked: Job | None = None
    answer: Any = None
    deadline: float | None = None


class OnRay:
    """An `Executor` over a Ray cluster, or over this machine where there is none.

    Raises:
        SpecError: Ray is not installed, the cluster cannot be reached, or it can never hold such workers.
    """

    def __init__(self, workers: Workers, spec: StudySpec, folder: Path, device: str, watcher: Watcher) -> None:
        try:
            import ray
        except ImportError:
            raise SpecError("--workers ray: Ray is not installed: pip install 'sparsedial[ray]'") from None
        self.ray, self.spec, self.folder, self.device, self.watcher = ray, spec, folder.resolve(), device, watcher
        self.timeout = workers.timeout
        self.slots: list[_Slot] = []
        self.began = not ray.is_initialized()
        if self.began:
            _start(ray, workers.address)
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self.cpus = workers.cpus
            some_gpu = any(node.get("GPU") for node in nodes) and device != "cpu"
            self.gpus = float(some_gpu) if workers.gpus is None else workers.gpus
            self.number = _room(nodes, self.cpus, self.gpus, workers.number)
        except BaseException:
            self.close()
            raise
        watcher.say(f"Ray: up to {self.number} workers with {self.cpus:g} CPUs and {self.gpus:g} GPUs each")

    def take(self, jobs: list[Job]) -> list[Job]:
        """As many as there are workers free for."""
        taken = []
        for job in jobs:
            if (slot := self._slot(job, jobs)) is not None:
                slot.job = job
                load = slot.model != job.model
                slot.model = job.model
                self._ask(slot, Job(job.model) if load else job)
                taken.append(job)
        return taken

    def wait(self) -> tuple[Job, Outcome]:
        """Wait until a job has ended, its worker has died, or its time is up."""
        while True:
            busy = {slot.answer: slot for slot in self.slots if slot.job is not None}
            deadlines = [slot.deadline for slot in busy.values() if slot.deadline is not None]
            left = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
            for answer in self.ray.wait(list(busy), num_returns=1, timeout=left)[0]:
                slot = busy[answer]
                outcome = self._outcome(slot)
                if outcome.kind == "finished" and slot.asked != slot.job and slot.job is not None:
                    self._ask(slot, slot.job)  # the model is loaded: now the trial, and its clock
                    continue
                return self._end(slot, outcome)
            for slot in busy.values():
                if slot.deadline is not None and time.monotonic() >= slot.deadline:
                    self._drop(slot)
                    return self._end(slot, Outcome("timeout", f"took longer than {self.timeout:g} seconds"))

    def close(self) -> None:
        """Kill the workers; a cluster that was started here ends."""
        for slot in list(self.slots):
            self._drop(slot)
        if self.began and self.ray.is_initialized():
            self.ray.shutdown()

    def _slot(self, job: Job, jobs: list[Job]) -> _Slot | None:
        """A free worker: one that holds the job's model, else a new one, else one whose model is not needed now."""
        free = [slot for slot in self.slots if slot.job is None]
        for slot in free:
            if slot.model == job.model:
                return slot
        if len(self.slots) < self.number:
            return self._hire()
        needed = {j.model for j in jobs} | {slot.model for slot in self.slots if slot.job is not None}
        return next((slot for slot in free if slot.model not in needed), None)

    def _hire(self) -> _Slot:
        threads = str(max(1, floor(self.cpus)))
        actor = self.ray.remote(RemoteWorker).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_restarts=0,  # a dead worker is noted and replaced by the driver
            runtime_env={"env_vars": dict.fromkeys(THREADS, threads)},
        )
        slot = _Slot(actor.remote(self.spec.to_json(), str(self.folder), self.device, _seal(self.folder)), "")
        self.slots.append(slot)
        return slot

    def _ask(self, slot: _Slot, job: Job) -> None:
        slot.asked = job
        slot.deadline = time.monotonic() + self.timeout if self.timeout and job.task is not None else None
        slot.answer = slot.actor.run.remote(asdict(job))

    def _outcome(self, slot: _Slot) -> Outcome:
        errors = self.ray.exceptions
        try:
            return Outcome.from_json(self.ray.get(slot.answer))
        except errors.OutOfMemoryError as error:
            outcome = Outcome("oom", str(error))
        except errors.RayTaskError as error:  # a fault of ours: what goes wrong with a trial is an Outcome
            outcome = Outcome("error", str(error))
        except errors.RayError as error:
            outcome = Outcome("killed", f"its worker died: {error}")
        self._drop(slot)
        return outcome

    def _end(self, slot: _Slot, outcome: Outcome) -> tuple[Job, Outcome]:
        job, slot.job = slot.job, None
        if job is None:
            raise RuntimeError("nothing was taken")
        return job, outcome

    def _drop(self, slot: _Slot) -> None:
        self.slots = [other for other in self.slots if other is not slot]
        self.ray.kill(slot.actor)


def _start(ray: Any, address: str | None) -> None:
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SpecError(f"--ray-address {address!r}: cannot be reached: {error}") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place, which would hide ours


def _room(nodes: list[dict[str, float]], cpus: float, gpus: float, number: int | None) -> int:
    """How many workers there will be.

    >>> _room([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}], cpus=1, gpus=1, number=None)
    2

    Raises:
        SpecError: not one of them, or not as many as asked for, can ever be placed.
    """

    def fit(node: dict[str, float]) -> int:
        wanted = (("CPU", cpus), ("GPU", gpus))
        return min(floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in wanted if amount > 0)

    room = sum(map(fit, nodes))
    if room < (number or 1):
        there = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise SpecError(
            f"{number or 1} worker(s) with {cpus:g} CPUs and {gpus:g} GPUs each can never be placed: the cluster's "
            f"machines have {there}. Lower --num-workers, --cpus-per-worker or --gpus-per-worker."
        )
    return number or room


def _seal(folder: Path) -> str | None:
    """A hash of the study's file, or None where there is none: whether two machines see the same folder."""
    path = folder / "study.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
