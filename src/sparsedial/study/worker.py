"""A worker: one model in memory. It takes trials of it, and writes each finished one into the study itself."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from sparsedial.errors import SparsedialError, StoreError
from sparsedial.ffn import SITES, FFNs, find_ffns
from sparsedial.models import LanguageModel, load_model
from sparsedial.rules import RULES, make_rule
from sparsedial.sources import find_model
from sparsedial.sparsify import sparsify
from sparsedial.study.plan import Found, Job
from sparsedial.study.provenance import provenance
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store, digest
from sparsedial.study.trial import Trial, ffns_digest
from sparsedial.tasks import make_tasks
from sparsedial.tasks.base import Task


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        kind: ``finished``, ``stop`` (the study cannot be written or read: no use in going on), or one of `OUTCOMES`.
        message: in words, where it failed. error: the class of the `SparsedialError`.
        found: what the model is that was loaded for it.
    """

    kind: str
    message: str = ""
    error: str = "TaskError"
    found: Found | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back."""
        return {**asdict(self), "found": self.found and self.found.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcome:
        """The inverse of `to_json`."""
        return cls(**{**data, "found": data["found"] and Found.from_json(data["found"])})


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


class Worker:
    """Runs jobs, one at a time; the model stays loaded until a job needs another.

    Args:
        spec: of the study. folder: of the study. device: as `load_model` takes it. watcher: told what goes on.
        tasks: where they have been made already.
    """

    def __init__(
        self, spec: StudySpec, folder: Path, device: str, watcher: Watcher, tasks: list[Task] | None = None
    ) -> None:
        self.spec, self.store, self.device, self.watcher = spec, Store(folder), device, watcher
        self.tasks = {task.name: task for task in tasks or make_tasks(spec.tasks, spec.options)}
        self.provenance = provenance()
        self.found: Found | None = None
        self.loaded: tuple[LanguageModel, FFNs] | None = None
        self.examples: dict[str, dict[str, Any]] = {}

    def run(self, job: Job) -> Outcome:
        """Do what is asked; whatever goes wrong with it becomes an `Outcome`."""
        try:
            self._open(job.model)
            if job.task is not None:
                self._trial(job)
            return Outcome("finished", found=self.found)
        except StoreError as error:
            return Outcome("stop", str(error), "StoreError")
        except SparsedialError as error:
            return Outcome("invalid", str(error), type(error).__name__)
        except Exception as error:
            if not _is_out_of_memory(error):
                return Outcome("error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            failed = Outcome("oom", f"out of memory: {error}")
        gc.collect()  # outside of the handler: the traceback held on to the tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return failed

    def _open(self, name: str) -> None:
        if self.found is not None and self.found.model == name:
            return
        self.found = self.loaded = None
        self.examples = {}
        gc.collect()  # the last model makes room for the next
        source = find_model(name, trust_remote_code=self.spec.trust_remote_code, say=self.watcher.say)
        self.watcher.say(f"loading {name}")
        lm = load_model(
            source, device=self.device, dtype=self.spec.dtype, kind=self.spec.kind, mask_token=self.spec.mask_token
        )
        ffns = find_ffns(lm.model, modules=self.spec.modules)
        sites = self._sites(lm, ffns)
        text = f"{name}: {lm.parameters / 1e6:.0f} M parameters, {ffns!r}, {lm.kind}, {lm.dtype} on {lm.device}"
        self.loaded = lm, ffns
        self.found = Found(name, lm.identity(), ffns_digest(ffns, self.spec.layers), tuple(sites), lm.parameters, text)

    def _sites(self, lm: LanguageModel, ffns: FFNs) -> list[str]:
        """The sites that the model has; those of the spec are checked against it before anything is run."""
        rule = make_rule(self.spec.rules[0], RULES[self.spec.rules[0]].dense)
        for site in self.spec.sites or ():
            sparsify(lm.model, site, rule, layers=self.spec.layers, ffns=ffns)
        chosen = [f for f in ffns if self.spec.layers is None or f.layer in self.spec.layers]
        missing = {site: next((f.why_not(site) for f in chosen if f.why_not(site)), None) for site in SITES}
        sites = [site for site in SITES if missing[site] is None]
        if self.spec.sites is None:
            for site in sites[:1]:
                sparsify(lm.model, site, rule, layers=self.spec.layers, ffns=ffns)  # says which layers there are not
            for site in set(SITES) - set(sites):
                self.watcher.say(f"no site {site!r}: {missing[site]}")
        return sites

    def _trial(self, job: Job) -> None:
        if self.loaded is None or job.task is None:
            raise RuntimeError("no model is loaded")
        lm, ffns = self.loaded
        rule = None if job.rule is None or job.value is None else make_rule(job.rule, job.value)
        trial = Trial(self.tasks[job.task], job.site, rule, self.spec.layers)
        if self.store.whole_trial(digest(trial.identity(lm, ffns))) is not None:
            return  # another worker, or another run, has finished it
        examples = self._examples(lm, trial.task)
        watch = self._watch(str(job))
        watch(0, 1)
        record, samples = trial.run(lm, ffns, examples, watch)
        record["provenance"] = self.provenance
        self.store.write_trial(record, samples)

    def _examples(self, lm: LanguageModel, task: Task) -> dict[str, Any]:
        """A task's examples: prepared when the first missing trial needs them, kept for the next run."""
        if task.name not in self.examples:
            key = digest({"model": lm.identity(), "task": task.identity()})
            kept = self.store.prepared(key)
            if kept is None:
                prepared = task.prepare(lm, self._watch(f"{lm.source.name}, {task.name}, preparing"))
                kept = self.store.write_prepared(key, prepared)
            self.examples[task.name] = kept
        return self.examples[task.name]

    def _watch(self, what: str) -> Callable[[int, int], None]:
        return lambda done, of: self.watcher.work(what, done, of)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so on a CPU with a plain RuntimeError."""
    said = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return said or isinstance(error, torch.OutOfMemoryError | MemoryError)
