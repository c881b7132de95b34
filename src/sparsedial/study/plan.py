"""Which trials can be run now: a pure function of the spec and of what is finished or has failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from sparsedial.critical import Curve, curve, task_average
from sparsedial.ffn import SITES
from sparsedial.rules import make_rule
from sparsedial.study.search import next_value
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store, digest
from sparsedial.study.trial import identity
from sparsedial.tasks import DATA_FREE

OUTCOMES = {
    "invalid": "its numbers cannot be used (NaN, a task that cannot be scored)",
    "error": "an unexpected error; its traceback is in the record",
    "oom": "out of memory",
    "killed": "its worker died",
    "timeout": "it took longer than --timeout",
    "unreadable": "the record of the attempt is damaged",
}
FINAL = {"invalid", "error"}  # what the trial itself decides; the rest may be the machine's doing
ATTEMPTS = 3
TYPICAL_POINTS = 6  # of an adaptive search: for the estimate of what is left only


@dataclass(frozen=True)
class Job:
    """What a worker is asked for: a trial in words; without a task, to load the model and say what it is.

    >>> str(Job("tiny", "arc_easy", "input", "top_p", 0.9))
    'tiny, arc_easy, input top_p 0.9'
    """

    model: str
    task: str | None = None
    site: str | None = None
    rule: str | None = None
    value: float | None = None

    def __str__(self) -> str:
        if self.task is None:
            return f"{self.model}, loading"
        what = "dense" if self.site is None else f"{self.site} {self.rule} {self.value:g}"
        return f"{self.model}, {self.task}, {what}"


@dataclass(frozen=True)
class Found:
    """What a model turned out to be, as far as planning needs it.

    Attributes:
        model: its name in the spec. identity: of the loaded model. ffns: digest of those that are sparsified.
        sites: those it has. parameters: how many. text: the same for a reader.
    """

    model: str
    identity: dict[str, Any]
    ffns: str
    sites: tuple[str, ...]
    parameters: int
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back."""
        return {**asdict(self), "sites": list(self.sites)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Found:
        """The inverse of `to_json`."""
        return cls(**{**data, "sites": tuple(data["sites"])})


def read_found(store: Store) -> dict[str, Found]:
    """What is known of a study's models, by name, from ``resolved.json``."""
    entries = (store.read_resolved() or {}).get("found", [])
    try:
        return {entry["model"]: Found.from_json(entry) for entry in entries}
    except (KeyError, TypeError):  # it can be found out again
        return {}


class Samples(Protocol):
    """What keeps the per-example scores of trials: a `Store`, or several of them joined."""

    def samples(self, record: dict[str, Any]) -> np.ndarray:
        """Those of a trial, float64 ``[N]``."""


def measured_curve(kept: Samples, dense: dict[str, Any], found: Sequence[dict[str, Any]]) -> Curve:
    """The curve of one site's trials on one task. A point that dropped nothing stays a point, just above 0."""
    points = [(max(r["result"]["sparsity"], 1e-12), kept.samples(r), r["identity"]["rule"]["value"]) for r in found]
    return curve(points, dense=kept.samples(dense))


class Plan:
    """What is still to be run.

    Args:
        spec: what was asked for. tasks: the identity of each, by name. store: where the trials are.
        found: the models that have been loaded, by name; more may be added as they are.
    """

    def __init__(
        self, spec: StudySpec, tasks: Mapping[str, dict[str, Any]], store: Store, found: Mapping[str, Found]
    ) -> None:
        self.spec, self.tasks, self.store, self.found = spec, tasks, store, dict(found)
        self._keys: dict[Job, str] = {}
        self._finished: dict[str, dict[str, Any]] = {}  # they never change: read once
        self._answers: dict[Any, float | None] = {}  # of the search, which is a pure function

    def jobs(self) -> list[Job]:
        """What can be run now, in the order of the spec; empty when nothing is left."""
        return [job for model in dict.fromkeys(self.spec.models) for job in self._jobs(model)]

    def key(self, job: Job) -> str:
        """The key of a job's trial; of one without a task, a key for its failures."""
        if job.task is None:
            return digest({"model": job.model})
        if job not in self._keys:
            rule = None if job.rule is None or job.value is None else make_rule(job.rule, job.value).to_json()
            found, task = self.found[job.model], self.tasks[job.task]
            self._keys[job] = digest(identity(found.identity, task, found.ffns, job.site, rule, self.spec.layers))
        return self._keys[job]

    def finished(self, job: Job) -> dict[str, Any] | None:
        """The record of a job's trial, or None."""
        key = self.key(job)
        if key not in self._finished and (record := self.store.whole_trial(key)) is not None:
            self._finished[key] = record
        return self._finished.get(key)

    def given_up(self, job: Job) -> dict[str, Any] | None:
        """The last failed attempt at a job, if no further one is to be made, or None."""
        attempts = self.store.failures(self.key(job))
        final = any(a["kind"] in FINAL for a in attempts) or len(attempts) >= ATTEMPTS
        return attempts[-1] if final else None

    def known(self) -> Iterator[Job]:
        """Every trial that the models loaded so far are known to need, finished or not."""
        for model in (m for m in dict.fromkeys(self.spec.models) if m in self.found):
            yield from (Job(model, task) for task in self.tasks)
            for site, rule in self.curves(model):
                for value in self.values(model, site, rule)[0]:
                    yield from (Job(model, task, site, rule, value) for task in self.tasks)

    def progress(self) -> tuple[int, int]:
        """How many trials are finished, of how many: an estimate while models are unknown or searches under way."""
        jobs = list(self.known())
        done, of = sum(self.finished(job) is not None for job in jobs), len(jobs)
        for model in dict.fromkeys(self.spec.models):
            typical = TYPICAL_POINTS if self.spec.values is None else len(set(self.spec.values))
            if model not in self.found:
                of += len(self.tasks) * (1 + len(self.spec.sites or SITES) * len(self.spec.rules) * typical)
            elif self.spec.values is None:
                curves = [self.values(model, site, rule) for site, rule in self.curves(model)]
                under_way = [values for values, missing in curves if missing or not values]
                of += len(self.tasks) * sum(max(0, typical - len(values)) for values in under_way)
        return done, of

    def curves(self, model: str) -> list[tuple[str, str]]:
        """Site and rule of every curve of a model that has been loaded."""
        sites = dict.fromkeys(self.spec.sites or self.found[model].sites)
        return [(site, rule) for site in sites for rule in dict.fromkeys(self.spec.rules)]

    def values(self, model: str, site: str, rule: str) -> tuple[list[float], list[Job]]:
        """The dial values of one curve as far as they are known, and the trials of it that can be run now."""
        tasks = self._usable(model)
        if self.spec.values is not None:
            grid = sorted(set(self.spec.values), reverse=True)
            return grid, self.missing([Job(model, task, site, rule, value) for value in grid for task in tasks])
        values: list[float] = []
        while tasks and (value := self._next(model, site, rule, tasks, values)) is not None:
            values.append(value)
            if missing := self.missing([Job(model, task, site, rule, value) for task in tasks]):
                return values, missing
            # A task that has failed somewhere on this curve has no say in it any more.
            tasks = [task for task in tasks if self.finished(Job(model, task, site, rule, value))]
        return values, []

    def missing(self, jobs: list[Job]) -> list[Job]:
        """Those that are neither finished nor given up."""
        return [j for j in jobs if (j.task is None or self.finished(j) is None) and self.given_up(j) is None]

    def _jobs(self, model: str) -> list[Job]:
        if model not in self.found:
            return self.missing([Job(model)])
        if dense := self.missing([Job(model, task) for task in self.tasks]):
            return dense
        return [job for site, rule in self.curves(model) for job in self.values(model, site, rule)[1]]

    def _usable(self, model: str) -> list[str]:
        """The tasks whose dense trial is there and has something to retain."""
        dense = {task: self.finished(Job(model, task)) for task in self.tasks}
        return [task for task, record in dense.items() if record and record["result"]["score"] > 0]

    def _next(self, model: str, site: str, rule: str, tasks: list[str], values: list[float]) -> float | None:
        # The average over tasks leads, as in the paper; those without data only where there are no others.
        leading = [task for task in tasks if task not in DATA_FREE] or tasks
        question = (model, site, rule, tuple(leading), tuple(values))
        if question not in self._answers:
            average = task_average([self._curve(model, t, site, rule, values) for t in leading]) if values else None
            self._answers[question] = next_value(rule, average, self.spec.retain, self.spec.tolerance)
        return self._answers[question]

    def _curve(self, model: str, task: str, site: str, rule: str, values: list[float]) -> Curve:
        dense = self._finished[self.key(Job(model, task))]
        found = [self._finished[self.key(Job(model, task, site, rule, value))] for value in values]
        return measured_curve(self.store, dense, found)
