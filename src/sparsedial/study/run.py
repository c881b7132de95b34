"""Runs a study: what is missing is planned, given to workers and noted; what is finished is never run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from sparsedial import errors
from sparsedial.errors import SparsedialError, StoreError
from sparsedial.study.executors import Executor, Workers, make_executor
from sparsedial.study.fsck import check_study
from sparsedial.study.plan import Job, Plan, read_found
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.study.worker import Outcome, Silent, Watcher

LOCAL = Workers()


def run_study(
    spec: StudySpec,
    folder: Path,
    *,
    device: str = "auto",
    watcher: Watcher | None = None,
    problems: Sequence[str] = (),
    workers: Workers = LOCAL,
    retry_failed: bool = False,
) -> Store:
    """Run what is missing of ``spec`` in ``folder``.

    A trial that fails is recorded in ``failed/`` and the rest goes on; `fsck` tells what there is of these.

    Args:
        spec: what to run. folder: where it is kept; trials that are there already are not run again.
        device: as `load_model` takes it.
        watcher: told what goes on.
        problems: what the caller found wrong already, to be said together with the rest.
        workers: where trials are run; by default in this process.
        retry_failed: try again what was given up.

    Returns:
        The store, with every trial of the spec finished or recorded as failed.

    Raises:
        SpecError: everything that is wrong with the spec, at once, before a model is loaded.
        StoreError: the folder cannot be written, or holds a study that must not be written over.
        ModelError, TaskError, NonFiniteError: nothing at all could be measured.
    """
    problems = [*problems, *workers.problems()]
    check_study(folder)
    store = Store(folder)
    try:
        store = Store.create(folder)
    except StoreError as error:
        problems.append(str(error))
    tasks = spec.check("auto" if workers.kind == "ray" else device, problems)  # a cluster's workers have their own
    watcher = watcher or Silent()
    executor = make_executor(workers, spec, folder, device, watcher, tasks)
    try:
        store.write_spec(spec.to_json())
        if retry_failed:
            store.forget_failures()
        plan = Plan(spec, {task.name: task.identity() for task in tasks}, store, {})
        for model in spec.models:
            store.forget_failures(plan.key(Job(model)))  # loading is always tried again
        _Driver(plan, watcher).drive(executor)
    finally:
        executor.close()
    return store


class _Driver:
    def __init__(self, plan: Plan, watcher: Watcher) -> None:
        self.plan, self.store, self.watcher = plan, plan.store, watcher
        self.first_failure: SparsedialError | None = None
        self.earlier = read_found(self.store)

    def drive(self, executor: Executor) -> None:
        """Until nothing can be run any more: give out what can be run, wait for one job, note what became of it."""
        flying: set[Job] = set()
        while True:
            flying.update(executor.take([job for job in self.plan.jobs() if job not in flying]))
            if not flying:
                break
            job, outcome = executor.wait()
            flying.discard(job)
            self._note(job, outcome)
            self.watcher.expect(*self.plan.progress())
        if self.first_failure is not None and not any(
            job.site is not None and self.plan.finished(job) for job in self.plan.known()
        ):
            raise self.first_failure

    def _note(self, job: Job, outcome: Outcome) -> None:
        if outcome.kind == "stop":
            raise StoreError(outcome.message)
        if outcome.kind == "finished" and job.task is None and outcome.found is not None:
            self.plan.found[job.model] = outcome.found
            self._write_resolved()
            self.watcher.say(outcome.found.text)
        elif outcome.kind == "finished":
            outcome = self._check(job, outcome)
        if outcome.kind != "finished":
            self._fail(job, outcome)

    def _check(self, job: Job, outcome: Outcome) -> Outcome:
        """A finished trial, unless it is not the one that was asked for or there is nothing to retain."""
        record = self.plan.finished(job)
        if record is None:
            identity = outcome.found.identity if outcome.found else None
            planned = self.plan.found[job.model].identity
            return Outcome("error", f"finished as another trial: the worker's model is {identity}, expected {planned}. "
                           "Workers must agree: give a dtype, and the same files to all.")  # fmt: skip
        if job.site is None and (score := record["result"]["score"]) <= 0:
            self._remember(
                Outcome(
                    "invalid",
                    f"task {job.task}: the dense model scores {score:g} on {record['result']['examples']} examples, so "
                    "there is nothing to retain. Take more examples, another metric, or leave the task out.",
                )
            )
        return outcome

    def _fail(self, job: Job, outcome: Outcome) -> None:
        self.store.write_failure(self.plan.key(job), outcome.kind, outcome.message, asdict(job))
        again = "" if self.plan.given_up(job) else "; it is tried again"
        self.watcher.say(f"failed: {job}: {outcome.kind}: {outcome.message.splitlines()[0]}{again}")
        self._remember(outcome)

    def _remember(self, outcome: Outcome) -> None:
        kind = getattr(errors, outcome.error, errors.TaskError)
        self.first_failure = self.first_failure or kind(outcome.message)

    def _write_resolved(self) -> None:
        """What is known of the models; of one that is still to be loaded, what an earlier run has found."""
        known = {**self.earlier, **self.plan.found}
        found = [known[model] for model in dict.fromkeys(self.plan.spec.models) if model in known]
        self.store.write_resolved(
            {
                "tasks": list(self.plan.tasks.values()),
                "models": [f.identity for f in found],
                "found": [f.to_json() for f in found],
            }
        )
