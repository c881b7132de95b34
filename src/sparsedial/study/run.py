"""Runs a study: for each model, the dense trials, then each site's points; what is finished is never run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from sparsedial.critical import Curve, curve, task_average
from sparsedial.errors import StoreError, TaskError
from sparsedial.ffn import SITES, FFNs, find_ffns
from sparsedial.models import LanguageModel, load_model
from sparsedial.rules import RULES, make_rule
from sparsedial.sources import find_model
from sparsedial.sparsify import sparsify
from sparsedial.study.provenance import provenance
from sparsedial.study.search import next_value
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store, digest
from sparsedial.study.trial import Trial
from sparsedial.tasks.base import Task
from sparsedial.tasks.self_prediction import SelfPrediction

TYPICAL_POINTS = 6  # of an adaptive search: for the estimate of what is left only


def measured_curve(store: Store, dense: dict[str, Any], found: list[dict[str, Any]]) -> Curve:
    """The curve of one site's trials on one task. A point that dropped nothing stays a point, just above 0."""
    points = [(max(r["result"]["sparsity"], 1e-12), store.samples(r), r["identity"]["rule"]["value"]) for r in found]
    return curve(points, dense=store.samples(dense))


class Watcher(Protocol):
    """Told what goes on while a study runs."""

    def say(self, message: str) -> None:
        """One line worth reading."""

    def expect(self, done: float, of: float) -> None:
        """How many trials are done, of how many (an estimate, while a search is under way)."""

    def work(self, what: str, done: int, of: int) -> None:
        """What is being done now."""


class Silent:
    """A watcher that says nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def expect(self, done: float, of: float) -> None:
        """Nothing."""

    def work(self, what: str, done: int, of: int) -> None:
        """Nothing."""


def run_study(
    spec: StudySpec,
    folder: Path,
    *,
    device: str = "auto",
    watcher: Watcher | None = None,
    problems: Sequence[str] = (),
) -> Store:
    """Run what is missing of ``spec`` in ``folder``.

    Args:
        spec: what to run. folder: where it is kept; trials that are there already are not run again.
        device: as `load_model` takes it.
        watcher: told what goes on.
        problems: what the caller found wrong already, to be said together with the rest.

    Returns:
        The store, with every trial of the spec finished.

    Raises:
        SpecError: everything that is wrong with the spec, at once, before a model is loaded.
        StoreError: the folder cannot be written.
        ModelError, TaskError, NonFiniteError: a trial failed; what was finished before is kept.
    """
    problems = list(problems)
    try:
        store = Store.create(folder)
    except StoreError as error:
        problems.append(str(error))
    tasks = spec.check(device, problems)
    store.write_spec(spec.to_json())
    _Run(spec, tasks, store, device, watcher or Silent()).run()
    return store


class _Run:
    def __init__(self, spec: StudySpec, tasks: list[Task], store: Store, device: str, watcher: Watcher) -> None:
        self.spec, self.tasks, self.store, self.device, self.watcher = spec, tasks, store, device, watcher
        self.provenance = provenance()
        self.done = 0
        points = len(spec.values) if spec.values else TYPICAL_POINTS
        self.expected = len(spec.models) * len(tasks) * (1 + len(spec.sites or SITES) * points)
        self.resolved: dict[str, Any] = {"tasks": [task.identity() for task in tasks], "models": []}

    def run(self) -> None:
        for name in self.spec.models:
            source = find_model(name, trust_remote_code=self.spec.trust_remote_code, say=self.watcher.say)
            self.watcher.say(f"loading {name}")
            lm = load_model(source, device=self.device, dtype=self.spec.dtype)
            ffns = find_ffns(lm.model, modules=self.spec.modules)
            sites = self._sites(lm, ffns)
            self.resolved["models"].append(lm.identity())
            self.store.write_resolved(self.resolved)
            self.watcher.say(f"{name}: {lm.parameters / 1e6:.0f} M parameters, {ffns!r}, {lm.dtype} on {lm.device}")
            examples = {task.name: _Examples(self, lm, task) for task in self.tasks}
            dense = {task.name: self._trial(lm, ffns, examples[task.name], Trial(task)) for task in self.tasks}
            for task_name, record in dense.items():
                if record["result"]["score"] <= 0:
                    raise TaskError(
                        f"task {task_name}: the dense model scores {record['result']['score']:g} on "
                        f"{record['result']['examples']} examples, so there is nothing to retain. Take more examples, "
                        "another metric, or leave the task out."
                    )
            for site in sites:
                self._site(lm, ffns, examples, dense, site)

    def _sites(self, lm: LanguageModel, ffns: FFNs) -> list[str]:
        """The sites to measure, checked against the model before anything is run."""
        chosen = [f for f in ffns if self.spec.layers is None or f.layer in self.spec.layers]
        missing = {site: next((f.why_not(site) for f in chosen if f.why_not(site)), None) for site in SITES}
        sites = list(self.spec.sites or (site for site in SITES if missing[site] is None))
        for site in sites:
            rule = make_rule(self.spec.rule, RULES[self.spec.rule].dense)
            sparsify(lm.model, site, rule, layers=self.spec.layers, ffns=ffns)
        for site in set(SITES) - set(sites) if self.spec.sites is None else ():
            self.watcher.say(f"no site {site!r}: {missing[site]}")
        return sites

    def _site(
        self, lm: LanguageModel, ffns: FFNs, examples: dict[str, _Examples], dense: dict[str, Any], site: str
    ) -> None:
        """All points of one site: the grid, or as many as the search asks for."""
        records: dict[str, list[dict[str, Any]]] = {task.name: [] for task in self.tasks}
        grid = sorted(self.spec.values or ())
        while True:
            if self.spec.values is not None:
                value = grid.pop() if grid else None
            else:
                # The average over tasks leads, as in the paper; self-prediction only where it is alone.
                leading = [name for name in records if name != SelfPrediction.name] or list(records)
                measured = [self._curve(dense[name], records[name]) for name in leading]
                average = task_average([c for c in measured if c]) if all(measured) else None
                value = next_value(self.spec.rule, average, self.spec.retain, self.spec.tolerance)
            if value is None:
                break
            for task in self.tasks:
                trial = Trial(task, site, make_rule(self.spec.rule, value), self.spec.layers)
                records[task.name].append(self._trial(lm, ffns, examples[task.name], trial))
        if self.spec.values is None:
            self.expected += sum(map(len, records.values())) - TYPICAL_POINTS * len(self.tasks)
            self.watcher.expect(self.done, self.expected)

    def _curve(self, dense: dict[str, Any], found: list[dict[str, Any]]) -> Curve | None:
        if not found:
            return None
        return measured_curve(self.store, dense, found)

    def _trial(self, lm: LanguageModel, ffns: FFNs, examples: _Examples, trial: Trial) -> dict[str, Any]:
        key = digest(trial.identity(lm, ffns))
        record = self.store.trial(key)
        if record is None:
            what = "dense" if trial.rule is None else f"{trial.site} {trial.rule.name} {trial.rule.value:g}"
            what = f"{trial.task.name}, {what}"
            self.watcher.work(what, 0, 1)
            record, samples = trial.run(lm, ffns, examples(), lambda done, of: self.watcher.work(what, done, of))
            record["provenance"] = self.provenance
            self.store.write_trial(record, samples)
            record = self.store.trial(key) or record
        self.done += 1
        self.watcher.expect(self.done, max(self.expected, self.done))
        return record


class _Examples:
    """A task's examples for one model: prepared when the first missing trial needs them, kept for the next run."""

    def __init__(self, run: _Run, lm: LanguageModel, task: Task) -> None:
        self.run, self.lm, self.task = run, lm, task
        self.examples: dict[str, Any] | None = None

    def __call__(self) -> dict[str, Any]:
        if self.examples is None:
            key = digest({"model": self.lm.identity(), "task": self.task.identity()})
            self.examples = self.run.store.prepared(key)
            if self.examples is None:
                what = f"{self.task.name}, preparing"
                self.examples = self.task.prepare(self.lm, lambda done, of: self.run.watcher.work(what, done, of))
                self.run.store.write_prepared(key, self.examples)
        return self.examples
