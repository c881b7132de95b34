"""Execution of a study: jobs are planned and passed to workers, and their outcomes are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from sparsedial import errors
from sparsedial.errors import SparsedialError, StorageError
from sparsedial.files import ExclusiveMove
from sparsedial.study.dataclass_parsing import raise_problems
from sparsedial.study.earlier_study import EarlierStudy
from sparsedial.study.executors.base import Executor, ExecutorConfig
from sparsedial.study.executors.factory import make_executor
from sparsedial.study.in_memory import NO_OBJECTS, ObjectsInMemory
from sparsedial.study.integrity import check_study_readable
from sparsedial.study.job import FailureRecord, Job, OutcomeKind
from sparsedial.study.missing_tasks import leave_out_missing_tasks
from sparsedial.study.planner import Planner
from sparsedial.study.precision_summary import describe_precision
from sparsedial.study.progress_listener import NullListener, ProgressListener
from sparsedial.study.spec import StudySpec
from sparsedial.study.spec_folder import MISSING_TASKS
from sparsedial.study.store import Store
from sparsedial.study.study_lock import lock_study
from sparsedial.study.task_plan import task_plans_to_json
from sparsedial.study.worker import Outcome, WorkerSetup

LOCAL = ExecutorConfig()
"""Configuration that runs one trial at a time in this process."""


def run_study(  # noqa: PLR0913 - keyword-only options
    spec: StudySpec,
    folder: Path,
    *,
    device: str = "auto",
    listener: ProgressListener | None = None,
    executor: ExecutorConfig = LOCAL,
    retry_failed: bool = False,
    objects: ObjectsInMemory = NO_OBJECTS,
) -> Store:
    """Run the trials of a study that are not finished. Finished trials are never run again.

    If a trial fails, the failure is recorded in ``failed/``, and the other trials are run. `find_problems` lists failed
    trials. If no sparse trial can be finished, the error of the first failure is raised. If no trial at all was
    finished, an earlier study in the directory is left as it was.

    Models that cannot be found and tasks whose data cannot be loaded are left out as long as others remain, and
    `find_problems` lists them. Other problems of the spec are detected before a model is loaded, and one `SpecError`
    lists all of them. A `StorageError` is raised if the directory cannot be written, holds other files or a study that
    must not be overwritten, or is in use by another study.

    Args:
        spec: The study.
        folder: Directory of the study. It is created if it does not exist.
        device: Device of the models, as in `load_language_model`. Defaults to "auto".
        listener: Receives messages and progress. Defaults to None.
        executor: Where trials are run. Defaults to this process.
        retry_failed: Run failed trials of earlier runs again. Defaults to False.
        objects: The models and tasks of the study that are objects in memory. Defaults to none.

    Returns:
        The store. Every trial of the spec is finished or recorded as failed.
    """
    listener = listener or NullListener()
    check_study_readable(folder)
    spec, missing_tasks = leave_out_missing_tasks(spec)
    store = Store(folder)
    problems = executor.problems()
    if objects.names and executor.uses_other_processes:
        problems.append(
            f"{', '.join(map(repr, objects.names))}: objects in memory cannot be sent to worker processes. Run the "
            "study in this process, without a timeout and without Ray, or pass names."
        )
    with ExitStack() as cleanup:
        try:
            store = Store.create(folder)
        except StorageError as error:
            problems.append(str(error))
        else:
            cleanup.enter_context(lock_study(folder, spec.to_json()))
        # The driver cannot check the devices of the workers of a cluster.
        problems += spec.problems("auto" if executor.kind == "ray" else device, objects)
        raise_problems(problems)
        for message in spec.find_missing_models().values():
            listener.log(f"{message} The other models are run.")
        for message in missing_tasks.values():
            listener.log(f"{message}\nThe other tasks are run.")
        setup = WorkerSetup(spec, folder, device, objects)
        _run_jobs(store, setup, executor, listener, retry_failed, missing_tasks)
    return store


def _run_jobs(
    store: Store,
    setup: WorkerSetup,
    executor: ExecutorConfig,
    listener: ProgressListener,
    retry_failed: bool,
    missing_tasks: Mapping[str, str],
) -> None:
    """Write the spec and run its jobs."""
    spec = setup.spec
    if store.exclusive_move is ExclusiveMove.LOCK:
        listener.log(
            f"{store.folder}: the file system has neither hard links nor exclusive renames, so files are written under "
            "a lock. Use several machines only if the file system shares locks (flock) between them."
        )
    job_executor = make_executor(executor, setup, listener)
    earlier = EarlierStudy(store)
    is_changed = False
    driver = None
    try:
        is_changed = store.write_spec(spec.to_json())
        if is_changed:
            listener.log(
                f"{store.folder}: the study has changed. Its earlier study.json is now in specs/. Finished trials are "
                "kept, and the report shows those of the new study."
            )
        if retry_failed:
            store.forget_failures()
        planner = Planner(spec, spec.plan_tasks(setup.objects), store, {})
        for model in planner.models:
            store.forget_failures(planner.key(Job(model)))  # every run tries again to load the models
        driver = _StudyDriver(planner, listener, missing_tasks)
        driver.run(job_executor)
        store.set_aside_damaged_files(planner.finished_keys)
        for line in describe_precision(planner):
            listener.log(line)
    except BaseException:
        has_run = driver is not None and (driver.has_finished_trial if is_changed else driver.has_tried_trial)
        if not has_run and earlier.restore() and is_changed:
            listener.log(f"{store.folder}: no trial was finished, so the earlier study.json is in place again.")
        raise
    finally:
        job_executor.close()


class _StudyDriver:
    """Driver of a study, which runs jobs until none is left and records their outcomes.

    Args:
        planner: Plan of the study.
        listener: Receives messages and progress.
        missing_tasks: Error message of each task that was left out, by its name.

    Attributes:
        has_tried_trial: True if a worker has run a trial, whatever its outcome was.
        has_finished_trial: True if a trial was finished.
    """

    def __init__(self, planner: Planner, listener: ProgressListener, missing_tasks: Mapping[str, str]) -> None:
        self._planner = planner
        self._missing_tasks = missing_tasks
        self._store = planner.store
        self._listener = listener
        self.has_tried_trial = False
        self.has_finished_trial = False
        self._first_failure: SparsedialError | None = None
        self._models_of_earlier_runs = self._store.resolved_models(planner.models)

    def run(self, executor: Executor) -> None:
        """Run all jobs of the plan."""
        running: set[Job] = set()
        while True:
            waiting = [job for job in self._planner.jobs() if job not in running]
            running.update(executor.take(waiting))
            if not running:
                break
            job, outcome = executor.wait()
            running.discard(job)
            self._record(job, outcome)
            trials = self._planner.count_trials()
            self._listener.set_total(trials.finished, trials.total)
        if self._first_failure is not None and not self._has_sparse_trial():
            raise self._first_failure

    def _has_sparse_trial(self) -> bool:
        for job in self._planner.known_jobs():
            if job.rule is not None and self._planner.finished_trial(job) is not None:
                return True
        return False

    def _record(self, job: Job, outcome: Outcome) -> None:
        if outcome.kind is OutcomeKind.STOP:
            raise getattr(errors, outcome.error, StorageError)(outcome.message)
        self.has_tried_trial = self.has_tried_trial or job.task is not None
        if outcome.kind is not OutcomeKind.FINISHED:
            self._record_failure(job, outcome)
        elif job.task is None:
            self._record_model(job, outcome)
        else:
            self._record_trial(job, outcome)

    def _record_model(self, job: Job, outcome: Outcome) -> None:
        if outcome.resolved_model is None:
            return
        self._planner.resolved_models[job.model] = outcome.resolved_model
        self._write_resolved()
        self._listener.log(outcome.resolved_model.text)

    def _record_trial(self, job: Job, outcome: Outcome) -> None:
        """Check that the finished trial is the planned one, and that a dense score can be compared with others."""
        record = self._planner.finished_trial(job)
        if record is None:
            self._record_failure(job, self._wrong_trial_outcome(job, outcome))
            return
        self.has_finished_trial = True
        if job.rule is None:
            dense = self._planner.dense_trial(job.model, str(job.task))
            problem = None if dense is None else self._planner.score_problem(dense)
            if problem is not None:
                self._keep_first_failure(Outcome(OutcomeKind.INVALID, f"task {job.task}: {problem}."))

    def _wrong_trial_outcome(self, job: Job, outcome: Outcome) -> Outcome:
        """Return the outcome of a job whose worker finished another trial than the planned one."""
        identity = None if outcome.resolved_model is None else outcome.resolved_model.identity
        planned = self._planner.resolved_models[job.model].identity
        return Outcome(
            OutcomeKind.ERROR,
            f"finished as another trial: the worker's model is {identity}, expected {planned}. All workers must load "
            "the same model. Set a dtype, and give the same files to all of them.",
        )

    def _record_failure(self, job: Job, outcome: Outcome) -> None:
        failure = FailureRecord(self._planner.key(job), outcome.kind, outcome.message, job)
        self._store.write_failure(failure)
        retry = "" if self._planner.final_failure(job) else "; it will be tried again"
        self._listener.log(f"failed: {job}: {outcome.kind}: {failure.summary}{retry}")
        self._keep_first_failure(outcome)

    def _keep_first_failure(self, outcome: Outcome) -> None:
        """Store the error of the first failure, which is raised if no sparse trial can be finished."""
        if self._first_failure is None:
            error_type = getattr(errors, outcome.error, errors.TaskError)
            self._first_failure = error_type(outcome.message)

    def _write_resolved(self) -> None:
        """Write the identities of tasks and models. Models that are not loaded yet are taken from earlier runs."""
        known = {**self._models_of_earlier_runs, **self._planner.resolved_models}
        models = [known[name] for name in self._planner.models if name in known]
        self._store.write_resolved(
            {
                **task_plans_to_json(self._planner.tasks),
                "models": [model.identity.to_json() for model in models],
                "resolved_models": [model.to_json() for model in models],
                **({MISSING_TASKS: dict(self._missing_tasks)} if self._missing_tasks else {}),
            }
        )
