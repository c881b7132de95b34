"""Planning of the trials that can be run now. The plan depends only on the spec and on the records on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sparsedial.ffn.feed_forward import SITES
from sparsedial.rules import Rule
from sparsedial.study.adaptive_search import MAX_POINTS, NO_CURVE, first_rules, next_step
from sparsedial.study.canonical_json import json_digest
from sparsedial.study.curve_progress import CurveKey, CurveProgress, SearchEnd, TrialCount
from sparsedial.study.job import MAX_ATTEMPTS, FailureRecord, Job, ResolvedModel
from sparsedial.study.leading_curve import TaskTrials, leading_curve
from sparsedial.study.records import TrialIdentity, TrialRecord
from sparsedial.study.score_scale import find_score_problem
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store

TYPICAL_SEARCH_POINTS = 8
"""Number of points of a typical search, used only to estimate the number of remaining trials."""


class Planner:
    """Planner of the jobs of a study.

    Args:
        spec: The study.
        tasks: Identity of each task, by its name.
        store: Store with the finished trials.
        resolved_models: The models that have been loaded, by their names. Models can be added while the study runs.
    """

    def __init__(
        self,
        spec: StudySpec,
        tasks: Mapping[str, Mapping[str, Any]],
        store: Store,
        resolved_models: Mapping[str, ResolvedModel],
    ) -> None:
        self.spec = spec
        self.tasks = tasks
        self.store = store
        self.models = list(dict.fromkeys(spec.models))
        self.resolved_models = dict(resolved_models)
        self._keys: dict[Job, str] = {}
        self._records: dict[str, TrialRecord] = {}  # finished trials never change, so they are read once
        self._score_problems: dict[str, str | None] = {}
        self._search_steps: dict[tuple[Any, ...], Rule | SearchEnd] = {}  # the search always gives the same answer

    def jobs(self, *, assume_dense: bool = False) -> list[Job]:
        """Return the jobs that can be run now, in the order of the spec.

        Args:
            assume_dense: Plan as if every model were loaded and every dense trial were finished. Defaults to False.

        Returns:
            The jobs. Empty if no job can be run.
        """
        jobs: list[Job] = []
        for model in self.models:
            jobs += self._model_jobs(model, assume_dense)
        return jobs

    def _model_jobs(self, model: str, assume_dense: bool) -> list[Job]:
        """Return the jobs of one model that can be run now: loading, then dense trials, then sparse trials."""
        if model not in self.resolved_models and not assume_dense:
            return self.pending_jobs([Job(model)])
        jobs = self.pending_jobs(self._dense_jobs(model))
        if jobs and not assume_dense:
            return jobs
        for curve in self.curves(model):
            jobs += self.curve_progress(curve, assume_dense=assume_dense).pending
        return jobs

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
            self._keys[job] = self._identity(job, self.tasks[job.task]).key
        return self._keys[job]

    def _identity(self, job: Job, task: Mapping[str, Any]) -> TrialIdentity:
        resolved = self.resolved_models[job.model]
        if job.rule is None:
            return TrialIdentity(resolved.identity, task)
        return TrialIdentity(resolved.identity, task, job.site, job.rule, self.spec.layers, resolved.ffns)

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

    def known_jobs(self) -> Iterator[Job]:
        """Yield the jobs of all known trials of the loaded models, finished or not."""
        for model in self.models:
            if model not in self.resolved_models:
                continue
            yield from self._dense_jobs(model)
            for curve in self.curves(model):
                for rule in self.curve_progress(curve).rules:
                    yield from _jobs_at(curve, rule, self.tasks)

    def count_trials(self) -> TrialCount:
        """Return the number of finished trials and of all trials of the study."""
        finished = 0
        total = 0
        for job in self.known_jobs():
            total += 1
            finished += self.finished_trial(job) is not None
        for model in self.models:
            total += len(self.tasks) * self._expected_points(model)
        return TrialCount(finished, total)

    def _expected_points(self, model: str) -> int:
        """Return an estimate of the number of points per task, beyond those of `known_jobs`."""
        typical = TYPICAL_SEARCH_POINTS if self.spec.values is None else len(set(self.spec.values))
        if model not in self.resolved_models:
            return 1 + len(self.spec.sites or SITES) * len(self.spec.rules) * typical
        if self.spec.values is not None:
            return 0
        points = 0
        for curve in self.curves(model):
            progress = self.curve_progress(curve)
            if progress.pending or not progress.rules:
                points += max(0, typical - len(progress.rules))
        return points

    def curves(self, model: str) -> list[CurveKey]:
        """Return all curves of a model. If it has not been loaded, it is assumed to have all sites.

        Args:
            model: Name of the model.

        Returns:
            The curves, in the order of the spec.
        """
        sites = self.spec.sites
        if sites is None:
            resolved = self.resolved_models.get(model)
            sites = SITES if resolved is None else resolved.sites
        curves = []
        for site in dict.fromkeys(sites):
            for rule_name in dict.fromkeys(self.spec.rules):
                curves.append(CurveKey(model, site, rule_name))
        return curves

    def curve_progress(self, curve: CurveKey, *, assume_dense: bool = False) -> CurveProgress:
        """Return the known points of a curve, and its jobs that can be run now.

        Args:
            curve: The curve.
            assume_dense: Plan as if every dense trial were finished. A search whose dense trials are missing is
                then planned with the first points of every search. Defaults to False.

        Returns:
            The rules and the pending jobs.
        """
        tasks = self._tasks_with_dense_score(curve.model)
        if self.spec.values is None:
            if not tasks and assume_dense:
                return self._progress_for_rules(curve, first_rules(curve.rule_name), list(self.tasks))
            return self._search_progress(curve, tasks)
        if assume_dense:
            tasks = list(self.tasks)
        return self._progress_for_rules(curve, self.spec.grid[curve.rule_name], tasks)

    def _progress_for_rules(self, curve: CurveKey, rules: tuple[Rule, ...], tasks: Sequence[str]) -> CurveProgress:
        """Return the progress of a curve whose rules are known in advance."""
        jobs: list[Job] = []
        for rule in rules:
            jobs += _jobs_at(curve, rule, tasks)
        return CurveProgress(rules, self.pending_jobs(jobs))

    def _search_progress(self, curve: CurveKey, tasks: list[str]) -> CurveProgress:
        """Repeat the search on the finished trials, up to the first point with pending jobs."""
        rules: list[Rule] = []
        while tasks:
            step = self._search_step(curve, tasks, rules)
            if isinstance(step, SearchEnd):
                return CurveProgress(tuple(rules), [], step)
            rules.append(step)
            jobs = _jobs_at(curve, step, tasks)
            pending = self.pending_jobs(jobs)
            if pending:
                return CurveProgress(tuple(rules), pending)
            # A task that failed at one point of the curve no longer takes part in the search.
            tasks = [task for task, job in zip(tasks, jobs, strict=True) if self.finished_trial(job) is not None]
        return CurveProgress(tuple(rules), [])

    def _dense_jobs(self, model: str) -> list[Job]:
        return [Job(model, task) for task in self.tasks]

    def _tasks_with_dense_score(self, model: str) -> list[str]:
        """Return the tasks whose dense trial is finished and has a score that sparse scores can be compared with."""
        tasks = []
        for task in self.tasks:
            record = self.finished_trial(Job(model, task))
            if record is not None and self.score_problem(record) is None:
                tasks.append(task)
        return tasks

    def score_problem(self, record: TrialRecord) -> str | None:
        """Return why no sparse score can be compared with that of a dense trial, or None if it can.

        Args:
            record: A finished dense trial.
        """
        if record.key not in self._score_problems:
            self._score_problems[record.key] = find_score_problem(record, self.store.samples(record))
        return self._score_problems[record.key]

    def _search_step(self, curve: CurveKey, tasks: Sequence[str], rules: Sequence[Rule]) -> Rule | SearchEnd:
        """Return the rule that the search measures after the given rules, or the end of the search."""
        cache_key = (curve, tuple(tasks), tuple(rules))
        if cache_key not in self._search_steps:
            self._search_steps[cache_key] = self._search(curve, tasks, rules)
        return self._search_steps[cache_key]

    def _search(self, curve: CurveKey, tasks: Sequence[str], rules: Sequence[Rule]) -> Rule | SearchEnd:
        measured = None
        if rules:
            measured = leading_curve(self.store, [self._task_trials(curve, task, rules) for task in tasks])
            if measured is None:
                return SearchEnd(NO_CURVE)
        spec = self.spec
        if spec.precision is None:
            step = next_step(curve.rule_name, measured, spec.retain, spec.tolerance, MAX_POINTS)
        else:
            step = next_step(curve.rule_name, measured, spec.retain, spec.precision / 100)
        if step.rule is None:
            return SearchEnd(step.end or "", measured)
        return step.rule

    def _task_trials(self, curve: CurveKey, task: str, rules: Sequence[Rule]) -> TaskTrials:
        dense = self._records[self.key(Job(curve.model, task))]
        sparse = [self._records[self.key(Job(curve.model, task, curve.site, rule))] for rule in rules]
        return TaskTrials(dense, tuple(sparse))


def _jobs_at(curve: CurveKey, rule: Rule, tasks: Iterable[str]) -> list[Job]:
    """Return the jobs of all tasks at one point of a curve."""
    return [Job(curve.model, task, curve.site, rule) for task in tasks]
