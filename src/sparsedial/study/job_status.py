"""The status of the jobs of a study: finished, pending or failed. It depends only on the records on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsedial.ffn.sites import registered_site_version
from sparsedial.study.calibrations import find_calibration
from sparsedial.study.canonical_json import json_digest
from sparsedial.study.job import MAX_ATTEMPTS, FailureRecord, Job, ResolvedModel
from sparsedial.study.pooled_trials import PooledTrial, pool_trials
from sparsedial.study.records import TrialIdentity, TrialRecord
from sparsedial.study.score_scale import find_score_problem
from sparsedial.study.store import Store
from sparsedial.study.task_plan import TaskPlan
from sparsedial.tasks.chat_template import resolve_identity


class JobStatus:
    """Status of the jobs of a study.

    Args:
        tasks: The blocks of examples of each task, by its name.
        store: Store with the finished trials.
        resolved_models: The models that have been loaded, by their names. Models can be added while the study runs.
        layers: Indices of the sparsified layers, or None for all.
        phases: Phases in which the rules are applied. Defaults to None, which means all of them.
        accelerated: Whether sparse trials run on kernels that skip weights. Defaults to False.
    """

    def __init__(
        self,
        tasks: Mapping[str, TaskPlan],
        store: Store,
        resolved_models: Mapping[str, ResolvedModel],
        layers: tuple[int, ...] | None,
        phases: tuple[str, ...] | None = None,
        accelerated: bool = False,
    ) -> None:
        self.tasks = tasks
        self.store = store
        self.resolved_models = dict(resolved_models)
        self.layers = layers
        self.phases = phases
        self.accelerated = accelerated
        self._keys: dict[Job, str] = {}
        self._records: dict[str, TrialRecord] = {}  # finished trials never change, so they are read once
        self._score_problems: dict[str, str | None] = {}

    def key(self, job: Job) -> str:
        """Return the key of a job: the key of its trial or, for the loading of a model, of its failure records.

        Args:
            job: A job whose model has been loaded, or the loading of a model.

        Returns:
            A SHA-256 in hexadecimal.
        """
        if job.task is None:
            return json_digest({"model": job.model})
        if job not in self._keys:
            has_template = self.resolved_models[job.model].has_chat_template
            task = resolve_identity(self.tasks[job.task].identity(job.block), has_template)
            self._keys[job] = self._identity(job, task).key
        return self._keys[job]

    def _identity(self, job: Job, task: Mapping[str, Any]) -> TrialIdentity:
        resolved = self.resolved_models[job.model]
        if job.rule is None:
            return TrialIdentity(resolved.identity, task)
        calibration = find_calibration(resolved.calibrations, job.rule, job.site)
        site_version = None if job.site is None else registered_site_version(job.site)
        return TrialIdentity(
            model=resolved.identity,
            task=task,
            site=job.site,
            rule=job.rule,
            layers=self.layers,
            ffns=resolved.ffns,
            site_version=site_version,
            calibration=calibration,
            phases=self.phases,
            accelerated=self.accelerated or None,
        )

    @property
    def finished_keys(self) -> frozenset[str]:
        """Keys of the finished trials that have been read."""
        return frozenset(self._records)

    def finished_trial(self, job: Job) -> TrialRecord | None:
        """Return the record of a job's trial, or None if it is not finished.

        Args:
            job: A job with a task.

        Returns:
            The record.
        """
        if job.model not in self.resolved_models:
            return None
        key = self.key(job)
        if key not in self._records:
            record = self.store.complete_trial(key)
            if record is None:
                return None
            self._records[key] = record
        return self._records[key]

    def final_failure(self, job: Job) -> FailureRecord | None:
        """Return the last failed attempt at a job if the job will not be tried again, else None.

        Args:
            job: Any job.

        Returns:
            The failure.
        """
        if job.task is not None and job.model not in self.resolved_models:
            return None
        attempts = self.store.failures(self.key(job))
        if len(attempts) >= MAX_ATTEMPTS or any(attempt.kind.is_final for attempt in attempts):
            return attempts[-1]
        return None

    def pending_jobs(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that are not finished and have not failed permanently.

        Args:
            jobs: Any jobs.

        Returns:
            The pending jobs, in the given order.
        """
        pending = []
        for job in jobs:
            if job.task is not None and self.finished_trial(job) is not None:
                continue
            if self.final_failure(job) is None:
                pending.append(job)
        return pending

    def dense_task_jobs(self, model: str, task: str, extra: int = 0) -> list[Job]:
        """Return the dense jobs of a task with its requested blocks of examples.

        Args:
            model: Name of the model.
            task: Name of the task.
            extra: Number of blocks to add. Defaults to 0.
        """
        return [Job(model, task, block=block) for block in self.tasks[task].first_blocks(extra)]

    def dense_trial(self, model: str, task: str) -> PooledTrial | None:
        """Return the pooled dense trial of a task with its requested examples, or None if it is not finished.

        Args:
            model: Name of the model.
            task: Name of the task.
        """
        records = [self.finished_trial(job) for job in self.dense_task_jobs(model, task)]
        finished = [record for record in records if record is not None]
        if len(finished) < len(records):
            return None
        return pool_trials(finished)

    def score_problem(self, record: PooledTrial) -> str | None:
        """Return why no sparse score can be compared with that of a dense trial, or None if it can.

        Args:
            record: A dense trial from `dense_trial`.
        """
        if record.key not in self._score_problems:
            self._score_problems[record.key] = find_score_problem(record, record.samples(self.store))
        return self._score_problems[record.key]
