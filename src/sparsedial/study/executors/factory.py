"""Creates the executor that a configuration describes."""

from __future__ import annotations

from sparsedial.errors import SpecError
from sparsedial.study.executors.base import Executor, ExecutorConfig
from sparsedial.study.executors.local import LocalExecutor, SubprocessExecutor
from sparsedial.study.progress_listener import ProgressListener
from sparsedial.study.worker import Worker, WorkerSetup
from sparsedial.study.worker_registrations import list_registrations


def make_executor(config: ExecutorConfig, setup: WorkerSetup, listener: ProgressListener) -> Executor:
    """Create an executor.

    Args:
        config: Where trials are run.
        setup: The study and the device.
        listener: Receives messages and progress.

    Returns:
        The executor. The caller has to close it.

    Raises:
        SpecError: The kind of workers is unknown, Ray is not installed, the Ray cluster cannot be reached or cannot
            hold the workers, or a worker in another process could not find a rule, site or task.
    """
    if config.kind == "ray" or config.timeout is not None:
        list_registrations(setup.spec)  # raises an error before a process is started
    if config.kind == "ray":
        from sparsedial.study.executors.ray_cluster import RayExecutor  # Ray is an optional dependency

        return RayExecutor(config, setup, listener)
    if config.kind != "local":
        raise SpecError(config.problems()[0])
    if config.timeout is not None:
        return SubprocessExecutor(setup, listener, config.timeout)
    return LocalExecutor(Worker(setup, listener))
