"""Executor on a Ray cluster: one actor per GPU or per CPU, each with one loaded model.

Workers write finished trials themselves, so the directory of the study must be visible to all machines.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sparsedial.errors import SpecError
from sparsedial.optional_packages import require_extra
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.executors.ray_worker import THREAD_VARIABLES, RemoteWorker, study_digest_at
from sparsedial.study.job import Job, OutcomeKind
from sparsedial.study.progress_listener import ProgressListener
from sparsedial.study.worker import Outcome, WorkerSetup

ROUNDING_TOLERANCE = 1e-9
"""Allowed rounding error when the number of workers that fit into a machine is computed."""


@dataclass(eq=False)
class RayActorState:
    """Ray actor, and the job that it is running.

    Attributes:
        actor: Handle of the Ray actor.
        model: Name of the model that the actor has loaded.
        job: The job that was given to the actor. None if the actor is idle.
        request: The last request to the actor: the loading of the model, or the job itself.
        answer: Ray reference to the outcome of the request.
        deadline: Monotonic time at which the actor is killed. None if there is no limit.
    """

    actor: Any
    model: str = ""
    job: Job | None = None
    request: Job | None = None
    answer: Any = None
    deadline: float | None = None

    @property
    def is_loading(self) -> bool:
        """True if the actor is loading the model for its job."""
        return self.request != self.job


class RayExecutor:
    """Executor that runs jobs on a Ray cluster. If there is no cluster, one is started on this machine.

    Args:
        config: Number and resources of the workers.
        setup: The study and the device.
        listener: Receives messages.

    Raises:
        SpecError: Ray is not installed, the cluster cannot be reached, or it cannot hold the workers.
    """

    def __init__(self, config: ExecutorConfig, setup: WorkerSetup, listener: ProgressListener) -> None:
        require_extra("ray", "--workers ray", SpecError)
        import ray

        self._ray = ray
        self._setup = setup
        self._timeout = config.timeout
        self.slots: list[RayActorState] = []
        self._is_own_cluster = not ray.is_initialized()
        if self._is_own_cluster:
            _connect(ray, config.address)
        with ExitStack() as cleanup:
            cleanup.callback(self.close)
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self._cpus = config.cpus
            self._gpus = config.gpus if config.gpus is not None else _default_gpus(nodes, setup.device)
            self.number = count_workers(nodes, self._cpus, self._gpus, config.number)
            cleanup.pop_all()  # no error occurred, so the executor stays open
        listener.log(f"Ray: up to {self.number} workers with {self._cpus:g} CPUs and {self._gpus:g} GPUs each")

    def take(self, jobs: list[Job]) -> list[Job]:
        """Start as many jobs as there are free workers.

        Args:
            jobs: Jobs that can be run now.

        Returns:
            The jobs that were started.
        """
        started = []
        for job in jobs:
            slot = self._free_slot(job, jobs)
            if slot is None:
                continue
            must_load = slot.model != job.model
            slot.job = job
            slot.model = job.model
            self._send(slot, Job(job.model) if must_load else job)
            started.append(job)
        return started

    def wait(self) -> tuple[Job, Outcome]:
        """Wait until a job ends, its worker dies, or its time is up.

        Returns:
            The job and its outcome.
        """
        while True:
            busy = [slot for slot in self.slots if slot.job is not None]
            answers = [slot.answer for slot in busy]
            ready = self._ray.wait(answers, num_returns=1, timeout=_seconds_to_deadline(busy))[0]
            for slot in busy:
                if slot.answer in ready:
                    result = self._handle_answer(slot)
                    if result is not None:
                        return result
                elif slot.deadline is not None and time.monotonic() >= slot.deadline:
                    self._discard(slot)
                    return _end_job(slot, Outcome(OutcomeKind.TIMEOUT, f"took longer than {self._timeout} seconds"))

    def close(self) -> None:
        """Kill the workers, and disconnect from a cluster that this executor connected to or started."""
        for slot in list(self.slots):
            self._discard(slot)
        if self._is_own_cluster and self._ray.is_initialized():
            self._ray.shutdown()

    def _free_slot(self, job: Job, jobs: Sequence[Job]) -> RayActorState | None:
        """Return a worker that holds the job's model, else a new one, else one whose model is not needed now."""
        free = [slot for slot in self.slots if slot.job is None]
        for slot in free:
            if slot.model == job.model:
                return slot
        if len(self.slots) < self.number:
            return self._start_worker()
        needed = {other.model for other in jobs}
        needed |= {slot.model for slot in self.slots if slot.job is not None}
        for slot in free:
            if slot.model not in needed:
                return slot
        return None

    def _start_worker(self) -> RayActorState:
        threads = str(max(1, math.floor(self._cpus)))
        actor_class = self._ray.remote(RemoteWorker).options(
            num_cpus=self._cpus,
            num_gpus=self._gpus,
            max_restarts=0,  # the driver replaces dead workers itself
            runtime_env={"env_vars": dict.fromkeys(THREAD_VARIABLES, threads)},
        )
        slot = RayActorState(actor_class.remote(self._setup.to_json(), study_digest_at(self._setup.folder)))
        self.slots.append(slot)
        return slot

    def _send(self, slot: RayActorState, request: Job) -> None:
        """Ask a worker to load a model, or to run a job within the time limit."""
        slot.request = request
        slot.deadline = None
        if self._timeout and request.task is not None:
            slot.deadline = time.monotonic() + self._timeout
        slot.answer = slot.actor.run.remote(request.to_json())

    def _handle_answer(self, slot: RayActorState) -> tuple[Job, Outcome] | None:
        """Return the job and its outcome. If the answer is that its model was loaded, start the job and return None."""
        outcome = self._receive_outcome(slot)
        if outcome.kind is OutcomeKind.FINISHED and slot.is_loading and slot.job is not None:
            self._send(slot, slot.job)
            return None
        return _end_job(slot, outcome)

    def _receive_outcome(self, slot: RayActorState) -> Outcome:
        """Return the outcome of a request. A worker that died or raised an error is discarded."""
        exceptions = self._ray.exceptions
        try:
            return Outcome.from_json(self._ray.get(slot.answer))
        except exceptions.OutOfMemoryError as error:
            outcome = Outcome(OutcomeKind.OUT_OF_MEMORY, str(error))
        except (
            exceptions.RayTaskError
        ) as error:  # unexpected, because `Worker.run` returns errors of a trial as outcomes
            outcome = Outcome(OutcomeKind.ERROR, str(error))
        except exceptions.RayError as error:
            outcome = Outcome(OutcomeKind.KILLED, f"its worker died: {error}")
        self._discard(slot)
        return outcome

    def _discard(self, slot: RayActorState) -> None:
        """Kill a worker."""
        self.slots = [other for other in self.slots if other is not slot]
        self._ray.kill(slot.actor)


def _end_job(slot: RayActorState, outcome: Outcome) -> tuple[Job, Outcome]:
    """Mark the worker as idle, and return its job and the outcome."""
    job = slot.job
    if job is None:
        raise RuntimeError("the worker has no job")
    slot.job = None
    return job, outcome


def _seconds_to_deadline(slots: Sequence[RayActorState]) -> float | None:
    """Return the time until the first deadline. None if there is no deadline."""
    deadlines = [slot.deadline for slot in slots if slot.deadline is not None]
    if not deadlines:
        return None
    return max(0.0, min(deadlines) - time.monotonic())


def _connect(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start one on this machine."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SpecError(f"--ray-address {address or '(default)'}: the Ray cluster cannot be reached: {error}") from None
    finally:
        if is_main_thread:
            signal.signal(signal.SIGTERM, handler)  # Ray replaces the handler


def _default_gpus(nodes: Sequence[dict[str, float]], device: str) -> float:
    """Return 1 if the workers can use a GPU, else 0."""
    if device == "cpu":
        return 0.0
    return float(any(node.get("GPU") for node in nodes))


def count_workers(nodes: Sequence[dict[str, float]], cpus: float, gpus: float, number: int | None) -> int:
    """Return how many workers the cluster will run.

    Args:
        nodes: Resources of each machine, with the keys "CPU" and "GPU".
        cpus: CPUs of each worker.
        gpus: GPUs of each worker.
        number: Requested number of workers, or None for as many as fit.

    Returns:
        The number of workers.

    Raises:
        SpecError: No worker fits into the cluster, or fewer workers fit than are requested.

    Example:
        >>> count_workers([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}], cpus=1, gpus=1, number=None)
        2
    """
    requested = number or 1
    capacity = sum(_count_workers_on_node(node, cpus, gpus) for node in nodes)
    if capacity < requested:
        machines = [f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes]
        raise SpecError(
            f"{requested} worker(s) with {cpus:g} CPUs and {gpus:g} GPUs each can never be placed: the cluster's "
            f"machines have {'; '.join(machines)}. Lower --num-workers, --cpus-per-worker or --gpus-per-worker."
        )
    return number or capacity


def _count_workers_on_node(node: dict[str, float], cpus: float, gpus: float) -> int:
    limits = []
    for name, amount in (("CPU", cpus), ("GPU", gpus)):
        if amount > 0:
            limits.append(math.floor(node.get(name, 0.0) / amount + ROUNDING_TOLERANCE))
    return min(limits)
