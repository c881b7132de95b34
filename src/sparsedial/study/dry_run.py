"""Previews a study: which trials it would run and how long they would take, without loading a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sparsedial.study.adaptive_search import MAX_POINTS, MAX_POINTS_FOR_PRECISION
from sparsedial.study.criterion import BOTH
from sparsedial.study.job import Job
from sparsedial.study.planner import POINTS_FOR_SECOND_CRITERION, Planner
from sparsedial.study.records import TrialRecord
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store

ModelTask = tuple[str, str]
"""Names of a model and a task."""


@dataclass(frozen=True)
class Preview:
    """The trials that a study would run.

    Attributes:
        finished_trials: Number of trials that are finished already.
        jobs: Trials that will be run. For a search, these are the next ones.
        further_trials: Largest number of trials that searches can add, by model and task.
        seconds: Estimated duration of ``jobs``, and of ``jobs`` together with all further trials. None if there is no
            finished trial of the same model and task.
        untimed: Models and tasks of jobs whose duration cannot be estimated.
        unresolved_models: Models that have not been loaded yet. If the spec names no sites, all sites are assumed.
    """

    finished_trials: int
    jobs: list[Job]
    further_trials: Mapping[ModelTask, int]
    seconds: tuple[float, float] | None
    untimed: list[ModelTask]
    unresolved_models: list[str]

    @property
    def max_further_trials(self) -> int:
        """Largest number of trials that searches can add."""
        return sum(self.further_trials.values())


def preview_study(spec: StudySpec, store: Store) -> Preview:
    """Return what a study would run. Nothing is written and no model is loaded.

    Args:
        spec: The study.
        store: Directory of the study. It need not exist.

    Returns:
        The trials and their estimated duration.
    """
    reader = Store(store.folder, repair=False)
    planner = Planner(spec, spec.plan_tasks(), reader, reader.resolved_models(spec.models))
    jobs = planner.jobs(assume_dense=True)
    further = _count_further_trials(planner)
    durations = _mean_durations(reader)

    pairs = [(job.model, str(job.task)) for job in jobs]
    untimed = [pair for pair in dict.fromkeys(pairs) if pair not in durations]
    seconds = None
    if len(untimed) < len(set(pairs)):
        next_seconds = sum(_estimate_seconds(job, durations) for job in jobs)
        further_seconds = 0.0
        for (model, task), count in further.items():
            requested = [Job(model, task, block=block) for block in planner.tasks[task].first_blocks(0)]
            trials = count / len(requested)
            further_seconds += trials * sum(_estimate_seconds(job, durations) for job in requested)
        seconds = (next_seconds, next_seconds + further_seconds)
    return Preview(
        finished_trials=sum(planner.finished_trial(job) is not None for job in planner.known_jobs()),
        jobs=jobs,
        further_trials=further,
        seconds=seconds,
        untimed=untimed,
        unresolved_models=[model for model in planner.models if model not in planner.resolved_models],
    )


def _count_further_trials(planner: Planner) -> Mapping[ModelTask, int]:
    """Return the maximum number of trials, by model and task, that searches can add to the known jobs."""
    further: dict[ModelTask, int] = defaultdict(int)
    if planner.spec.values is not None:
        return further
    max_points = MAX_POINTS
    if planner.spec.precision is not None:
        max_points = MAX_POINTS_FOR_PRECISION
    elif planner.spec.criterion == BOTH:
        max_points += POINTS_FOR_SECOND_CRITERION
    for model in planner.models:
        for curve in planner.curves(model):
            progress = planner.curve_progress(curve, assume_dense=True)
            if progress.pending:
                for task, plan in planner.tasks.items():
                    largest = plan.requested
                    if planner.spec.precision is not None:  # then the search adds examples, too
                        largest += plan.max_extra
                    known = sum(plan.requested + min(extra, plan.max_extra) for extra in progress.points.values())
                    further[model, task] += max(0, max_points * largest - known)
    return further


@dataclass(frozen=True)
class _Duration:
    """Mean duration of a finished trial.

    Attributes:
        trial: Seconds per trial.
        example: Seconds per example.
    """

    trial: float
    example: float


def _mean_durations(store: Store) -> dict[ModelTask, _Duration]:
    """Return the mean duration of a finished trial for each model and task."""
    records: dict[ModelTask, list[TrialRecord]] = defaultdict(list)
    for record in store.trials():
        records[record.model.name, record.task.name].append(record)
    durations = {}
    for pair, trials in records.items():
        seconds = sum(record.seconds for record in trials)
        examples = sum(record.result.examples for record in trials)
        durations[pair] = _Duration(seconds / len(trials), seconds / examples)
    return durations


def _estimate_seconds(job: Job, durations: Mapping[ModelTask, _Duration]) -> float:
    """Return the estimated duration of a trial. 0 if there is no finished trial of its model and task."""
    duration = durations.get((job.model, str(job.task)))
    if duration is None:
        return 0.0
    if job.block is None:
        return duration.trial
    return duration.example * len(job.block)
