"""Ray actor that runs the jobs of one worker."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from sparsedial.errors import SparsedialError, SpecError
from sparsedial.study.job import Job, OutcomeKind
from sparsedial.study.progress_listener import NullListener
from sparsedial.study.worker import Outcome, Worker, WorkerSetup

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables that set the number of threads of a worker."""


class RemoteWorker:
    """Ray actor that creates its `Worker` when it receives the first job. Jobs and outcomes are passed as JSON.

    Args:
        setup: The study and the device, as returned by `WorkerSetup.to_json`.
        study_digest: SHA-256 of the ``study.json`` that the driver sees.
    """

    def __init__(self, setup: dict[str, Any], study_digest: str | None) -> None:
        self._setup = setup
        self._study_digest = study_digest
        self._worker: Worker | None = None

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run a job.

        Args:
            job: A job, as returned by `Job.to_json`.

        Returns:
            The outcome, as returned by `Outcome.to_json`.
        """
        try:
            if self._worker is None:
                self._worker = self._create_worker()
        except SparsedialError as error:
            return Outcome(OutcomeKind.STOP, str(error), type(error).__name__).to_json()
        return self._worker.run(Job.from_json(job)).to_json()

    def _create_worker(self) -> Worker:
        setup = WorkerSetup.from_json(self._setup)
        if study_digest_at(setup.folder) != self._study_digest:
            raise SpecError(
                f"a worker does not see the study in {str(setup.folder)!r}: expected a folder that is shared by all "
                "machines of the cluster. Choose such a folder with --out."
            )
        return Worker(setup, NullListener())

    def threads(self) -> dict[str, Any]:
        """Return the number of threads of torch, and the environment variables that set it."""
        variables = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        return {"torch": torch.get_num_threads(), **variables}


def study_digest_at(folder: Path) -> str | None:
    """Return the SHA-256 of ``study.json``, which shows whether two machines see the same directory.

    Args:
        folder: Directory of the study.

    Returns:
        The digest in hexadecimal. None if there is no such file.
    """
    path = folder / "study.json"
    if not path.exists():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()
