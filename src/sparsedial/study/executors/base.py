"""The interface of executors, and their configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from sparsedial.optional_packages import describe_missing_extra
from sparsedial.study.job import Job
from sparsedial.study.worker import Outcome


@dataclass(frozen=True)
class ExecutorConfig:
    """Configuration of the workers that run the trials of a study.

    Attributes:
        kind: "local" (one trial at a time on this machine) or "ray". Defaults to "local".
        timeout: Seconds that one trial may take, including the preparation of its examples. A worker that takes longer
            is killed. Defaults to None, which means no limit.
        address: Address of a Ray cluster. Defaults to None, which means the address in the environment variable
            ``RAY_ADDRESS``, else a cluster that is running on this machine, else a new one on this machine.
        number: Number of Ray workers. Defaults to None, which means as many as fit into the cluster.
        gpus: GPUs of each Ray worker. Defaults to None, which means one if the cluster has any.
        cpus: CPUs of each Ray worker, which are also its number of threads. Defaults to 1.
    """

    kind: str = "local"
    timeout: float | None = None
    address: str | None = None
    number: int | None = None
    gpus: float | None = None
    cpus: float = 1.0

    @property
    def uses_other_processes(self) -> bool:
        """True if trials are run in other processes than the one that starts the study."""
        return self.kind == "ray" or self.timeout is not None

    def problems(self) -> list[str]:
        """Return the problems of the configuration, one clause per problem."""
        problems = []
        if self.kind not in ("local", "ray"):
            problems.append(f"workers {self.kind!r}: expected local or ray")
        if self.kind == "ray":
            problems += filter(None, [describe_missing_extra("ray", "--workers ray")])
        positive = {"timeout": self.timeout, "num_workers": self.number, "cpus_per_worker": self.cpus}
        for name, number in positive.items():
            if number is not None and not 0.0 < number < math.inf:
                problems.append(f"{name} {number}: expected a number above 0")
        if self.gpus is not None and not 0.0 <= self.gpus < math.inf:
            problems.append(f"gpus_per_worker {self.gpus}: expected 0 or more")
        if self.kind == "local" and self._has_ray_options():
            problems.append("--ray-address, --num-workers, --gpus-per-worker and --cpus-per-worker need --workers ray")
        return problems

    def _has_ray_options(self) -> bool:
        return bool(self.address or self.number or self.gpus) or self.cpus != 1.0


class Executor(Protocol):
    """Interface of executors, which run jobs.

    The driver calls `take` to start jobs, and `wait` to receive the outcome of one of them.
    """

    def take(self, jobs: list[Job]) -> list[Job]:
        """Start as many jobs as there are free workers, in the given order.

        Args:
            jobs: Jobs that can be run now.

        Returns:
            The jobs that were started.
        """

    def wait(self) -> tuple[Job, Outcome]:
        """Wait until a job ends.

        Returns:
            The job and its outcome.
        """

    def close(self) -> None:
        """Stop everything that is still running."""


class SingleJobExecutor:
    """Base class for executors that run one job at a time."""

    def __init__(self) -> None:
        self._job: Job | None = None

    def take(self, jobs: list[Job]) -> list[Job]:
        """Accept the first job, which `wait` will run.

        Args:
            jobs: Jobs that can be run now.

        Returns:
            A list of the first job. Empty if there are no jobs.
        """
        self._job = jobs[0] if jobs else None
        return jobs[:1]

    @property
    def current_job(self) -> Job:
        """The job to run now.

        Raises:
            RuntimeError: No job was taken.
        """
        if self._job is None:
            raise RuntimeError("no job was taken: call take() before wait()")
        return self._job
