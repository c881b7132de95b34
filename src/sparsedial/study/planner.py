"""Planning of the trials that can be run now. The plan depends only on the spec and on the records on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsedial.acceleration.kernel_execution import KERNEL_SITES
from sparsedial.curves.curve import Curve
from sparsedial.ffn.feed_forward import SITES
from sparsedial.rules import Rule
from sparsedial.study.adaptive_search import MAX_POINTS, NO_CURVE, SearchStep, first_rules, next_step
from sparsedial.study.criterion import BOTH, RETAIN_BY_PERPLEXITY, SCORE
from sparsedial.study.curve_progress import CurveKey, CurveProgress, SearchEnd, TrialCount
from sparsedial.study.example_growth import GrowingSearch, Points
from sparsedial.study.job import Job, ResolvedModel
from sparsedial.study.job_status import JobStatus
from sparsedial.study.leading_curve import TaskTrials, leading_curve, leading_perplexity_curve, select_leading_tasks
from sparsedial.study.pooled_trials import PooledTrial, pool_trials
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.study.task_plan import TaskPlan

TYPICAL_SEARCH_POINTS = 8
"""Number of points of a typical search, used only to estimate the number of remaining trials."""

POINTS_FOR_SECOND_CRITERION = 4
"""Number of points that a search by two criteria may add for the second one."""


@dataclass(frozen=True)
class _Search:
    """A search for the critical sparsity of one curve.

    Attributes:
        rule_name: Family of the rule.
        leading: Trials of the tasks that decide where to measure next.
        measured: The average of their curves. None at the start.
        retain: What the curve has to keep of its dense value.
        max_points: Number of points after which the search ends, if no precision is requested.
    """

    rule_name: str
    leading: Sequence[TaskTrials]
    measured: Curve | None
    retain: float
    max_points: int = MAX_POINTS


class Planner(JobStatus):
    """Planner of the jobs of a study.

    Args:
        spec: The study.
        tasks: The blocks of examples of each task, by its name.
        store: Store with the finished trials.
        resolved_models: The models that have been loaded, by their names. Models can be added while the study runs.
    """

    def __init__(
        self,
        spec: StudySpec,
        tasks: Mapping[str, TaskPlan],
        store: Store,
        resolved_models: Mapping[str, ResolvedModel],
    ) -> None:
        super().__init__(tasks, store, resolved_models, spec.layers, spec.phases, spec.accelerated)
        self.spec = spec
        self.models = list(dict.fromkeys(spec.models))
        self._search_steps: dict[tuple[Any, ...], Points | SearchEnd] = {}  # the search always gives the same answer

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
        return list(dict.fromkeys(jobs))  # searches at several sites may need the same dense trial

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

    def known_jobs(self) -> Iterator[Job]:
        """Yield the jobs of all known trials of the loaded models, finished or not."""
        for model in self.models:
            if model not in self.resolved_models:
                continue
            dense_jobs = dict.fromkeys(self._dense_jobs(model))
            sparse_jobs: list[Job] = []
            for curve in self.curves(model):
                points = self.curve_progress(curve).points
                dense_jobs.update(dict.fromkeys(self._dense_jobs(model, max(points.values(), default=0))))
                for rule, extra in points.items():
                    sparse_jobs += self._jobs_at(curve, rule, self.tasks, extra)
            yield from (*dense_jobs, *sparse_jobs)

    def count_trials(self) -> TrialCount:
        """Return the number of finished trials and of all trials of the study."""
        finished = 0
        total = 0
        for job in self.known_jobs():
            total += 1
            finished += self.finished_trial(job) is not None
        blocks = sum(plan.requested for plan in self.tasks.values())
        for model in self.models:
            total += blocks * self._expected_points(model)
        return TrialCount(finished, total)

    def _expected_points(self, model: str) -> int:
        """Return an estimate of the number of points per task, beyond those of `known_jobs`."""
        typical = TYPICAL_SEARCH_POINTS if self.spec.values is None else len(set(self.spec.values))
        if model not in self.resolved_models:
            return 1 + len(self.spec.sites or self._possible_sites) * len(self.spec.rules) * typical
        if self.spec.values is not None:
            return 0
        points = 0
        for curve in self.curves(model):
            progress = self.curve_progress(curve)
            if progress.pending or not progress.points:
                points += max(0, typical - len(progress.points))
        return points

    def curves(self, model: str) -> list[CurveKey]:
        """Return all curves of a model.

        If it has not been loaded, it is assumed to have all sites that can be run, for all rules.

        Args:
            model: Name of the model.

        Returns:
            The curves, in the order of the spec.
        """
        sites = self.spec.sites
        resolved = self.resolved_models.get(model)
        if sites is None:
            sites = self._possible_sites if resolved is None else resolved.sites
        curves = []
        for site in dict.fromkeys(sites):
            for rule_name in dict.fromkeys(self.spec.rules):
                if resolved is None or site not in resolved.undefined_sites.get(rule_name, ()):
                    curves.append(CurveKey(model, site, rule_name))
        return curves

    @property
    def _possible_sites(self) -> tuple[str, ...]:
        """Sites of a model that has not been loaded, if the spec names none."""
        return KERNEL_SITES if self.spec.accelerated else SITES

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
            jobs += self._jobs_at(curve, rule, tasks)
        return CurveProgress(dict.fromkeys(rules, 0), self.pending_jobs(jobs))

    def _search_progress(self, curve: CurveKey, tasks: Sequence[str]) -> CurveProgress:
        """Repeat the search on the finished trials, up to the first step with pending jobs."""
        points: dict[Rule, int] = {}
        while tasks:
            step = self._search_step(curve, tasks, points)
            if isinstance(step, SearchEnd):
                return CurveProgress(points, [], step)
            points.update(step)
            pending = self.pending_jobs(self._jobs_in_step(curve, step, tasks))
            if pending:
                return CurveProgress(points, pending)
            # A task that failed at one point of the curve no longer takes part in the search.
            tasks = [task for task in tasks if self._is_finished(self._jobs_in_step(curve, step, [task]))]
        return CurveProgress(points, [])

    def _dense_jobs(self, model: str, extra: int = 0) -> list[Job]:
        """Return the dense jobs of all tasks with the requested blocks, and with ``extra`` blocks more."""
        jobs = []
        for task in self.tasks:
            jobs += self.dense_task_jobs(model, task, extra)
        return jobs

    def _jobs_at(self, curve: CurveKey, rule: Rule, tasks: Iterable[str], extra: int = 0) -> list[Job]:
        """Return the jobs of tasks at one point of a curve."""
        jobs = []
        for task in tasks:
            for block in self.tasks[task].first_blocks(extra):
                jobs.append(Job(curve.model, task, curve.site, rule, block))
        return jobs

    def _jobs_in_step(self, curve: CurveKey, step: Points, tasks: Iterable[str]) -> list[Job]:
        """Return the dense and sparse jobs of tasks for the points of one step of a search."""
        jobs: list[Job] = []
        for task in tasks:
            jobs += self.dense_task_jobs(curve.model, task, max(step.values()))
            for rule, extra in step.items():
                jobs += self._jobs_at(curve, rule, [task], extra)
        return jobs

    def _is_finished(self, jobs: Iterable[Job]) -> bool:
        return all(self.finished_trial(job) is not None for job in jobs)

    def _tasks_with_dense_score(self, model: str) -> list[str]:
        """Return the tasks whose dense trials are finished and have scores that sparse scores can be compared with."""
        tasks = []
        for task in self.tasks:
            record = self.dense_trial(model, task)
            if record is not None and self.score_problem(record) is None:
                tasks.append(task)
        return tasks

    def _search_step(self, curve: CurveKey, tasks: Sequence[str], points: Points) -> Points | SearchEnd:
        """Return the points that the search measures after the given points, or the end of the search."""
        cache_key = (curve, tuple(tasks), tuple(points.items()))
        if cache_key not in self._search_steps:
            self._search_steps[cache_key] = self._search(curve, tasks, points)
        return self._search_steps[cache_key]

    def _search(self, curve: CurveKey, tasks: Sequence[str], points: Points) -> Points | SearchEnd:
        measured = None
        leading: list[TaskTrials] = []
        if points:
            trials = [self._task_trials(curve, task, points) for task in tasks]
            leading = select_leading_tasks(self.store, trials)
            measured = leading_curve(self.store, leading)
            if measured is None:
                return SearchEnd(NO_CURVE)
            if self.spec.criterion != SCORE:
                return self._search_by_perplexity(curve.rule_name, trials, measured, points)
        return self._next_points(_Search(curve.rule_name, leading, measured, self.spec.retain), points)

    def _search_by_perplexity(
        self, rule_name: str, trials: Sequence[TaskTrials], by_score: Curve, points: Points
    ) -> Points | SearchEnd:
        """Return the next points of a search by the perplexity, or by the score as long as that needs points as well.

        Without likelihoods, as those of masked diffusion models, the score alone decides.
        """
        score_search = _Search(rule_name, select_leading_tasks(self.store, trials), by_score, self.spec.retain)
        measured = leading_perplexity_curve(self.store, trials)
        if measured is None:
            return self._next_points(score_search, points)
        max_points = MAX_POINTS
        if self.spec.criterion == BOTH:
            step = self._next_points(score_search, points)
            if not isinstance(step, SearchEnd):
                return step
            max_points += POINTS_FOR_SECOND_CRITERION
        return self._next_points(_Search(rule_name, trials, measured, RETAIN_BY_PERPLEXITY, max_points), points)

    def _next_points(self, search: _Search, points: Points) -> Points | SearchEnd:
        step: Points | SearchStep
        if self.spec.precision is None:
            step = next_step(search.rule_name, search.measured, search.retain, self.spec.tolerance, search.max_points)
            if step.rule is not None:
                return {step.rule: 0}
        else:
            max_extra = max((self.tasks[task.dense.task.name].max_extra for task in search.leading), default=0)
            growing = GrowingSearch(search.rule_name, search.retain, self.spec.precision / 100, max_extra)
            step = growing.next_points(search.measured, points)
        if isinstance(step, SearchStep):
            return SearchEnd(step.end or "", search.measured, search.retain)
        return step

    def _task_trials(self, curve: CurveKey, task: str, points: Points) -> TaskTrials:
        extra = max(points.values())
        sparse = [self._pool_jobs(self._jobs_at(curve, rule, [task], added)) for rule, added in points.items()]
        return TaskTrials(self._pool_jobs(self.dense_task_jobs(curve.model, task, extra)), tuple(sparse))

    def _pool_jobs(self, jobs: Iterable[Job]) -> PooledTrial:
        return pool_trials([self._records[self.key(job)] for job in jobs])
