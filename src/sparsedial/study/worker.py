"""Workers, which run jobs on one loaded model and write each finished trial to the study."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedial.acceleration.kernel_execution import KERNEL_SITES, check_kernels
from sparsedial.errors import ModelError, SparsedialError, StorageError
from sparsedial.ffn.discovery import find_ffns
from sparsedial.ffn.feed_forward import FFN, SITES, FFNs
from sparsedial.ffn.projection_input import OUTER_SITES
from sparsedial.ffn.sites import check_site, find_site
from sparsedial.hooks.ffn_selection import select_ffns, select_owners
from sparsedial.inference.batch_size import FittingBatch, free_memory, is_memory_error
from sparsedial.models.device_memory import check_weights_fit
from sparsedial.models.kind import CAUSAL
from sparsedial.models.loading import LanguageModel, load_language_model
from sparsedial.models.parameter_count import format_parameter_count
from sparsedial.models.sources import resolve_source
from sparsedial.rules import Calibration
from sparsedial.study.calibrations import CalibrationSource, find_calibration, prepare_calibrations
from sparsedial.study.criterion import check_kind_has_likelihoods
from sparsedial.study.in_memory import NO_OBJECTS, ObjectsInMemory
from sparsedial.study.job import Job, OutcomeKind, ResolvedModel
from sparsedial.study.job_progress import JobProgress
from sparsedial.study.phase_choice import check_kind_has_phases
from sparsedial.study.progress_listener import ProgressListener
from sparsedial.study.provenance import collect_provenance
from sparsedial.study.records import TrialIdentity
from sparsedial.study.rule_sites import find_undefined_sites
from sparsedial.study.sample_table import SampleLabels
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.study.trial_evaluation import Trial, check_count, ffns_digest
from sparsedial.study.worker_registrations import import_registrations, list_registrations
from sparsedial.tasks.base import Task
from sparsedial.tasks.batch_option import BatchedTask
from sparsedial.tasks.chat_template import has_chat_template, resolve_task
from sparsedial.tasks.example_blocks import DivisibleTask, ExampleBlock


@dataclass(frozen=True)
class Outcome:
    """Outcome of a job.

    Attributes:
        kind: Finished, or the kind of failure.
        message: Error message. Empty if the job is finished.
        error: Name of the class of `SparsedialError` that describes the failure.
        resolved_model: The model that was loaded for the job. None if it was not loaded.
    """

    kind: OutcomeKind
    message: str = ""
    error: str = "TaskError"
    resolved_model: ResolvedModel | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` reads back."""
        model = None if self.resolved_model is None else self.resolved_model.to_json()
        return {"kind": self.kind.value, "message": self.message, "error": self.error, "resolved_model": model}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outcome:
        """Return the outcome that `to_json` turned into ``data``.

        Args:
            data: Dictionary with one entry per field. The kind is a value of `OutcomeKind`, and the model is a
                dictionary as returned by `ResolvedModel.to_json`, or None.
        """
        model = None if data["resolved_model"] is None else ResolvedModel.from_json(data["resolved_model"])
        return cls(OutcomeKind(data["kind"]), data["message"], data["error"], model)


@dataclass(frozen=True)
class WorkerSetup:
    """Parameters with which a worker is created.

    Attributes:
        spec: The study.
        folder: Directory of the study.
        device: Device of the models, as in `load_language_model`.
        objects: Models and tasks in memory. They cannot be sent to another process. Defaults to none.
    """

    spec: StudySpec
    folder: Path
    device: str
    objects: ObjectsInMemory = NO_OBJECTS

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` reads back in any process, without the objects. The path is absolute."""
        return {
            "spec": self.spec.to_json(),
            "folder": str(self.folder.resolve()),
            "device": self.device,
            "registrations": list_registrations(self.spec),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorkerSetup:
        """Return the setup that `to_json` turned into ``data``.

        Args:
            data: Dictionary with the keys "spec", "folder", "device" and "registrations". The spec is a dictionary as
                returned by `StudySpec.to_json`, the folder is text, and the modules of the registrations are imported.
        """
        import_registrations(data["registrations"])
        return cls(StudySpec.from_json(data["spec"]), Path(data["folder"]), data["device"])


@dataclass(frozen=True)
class _LoadedModel:
    """Model that is loaded, with its FFNs and the properties that planning needs."""

    lm: LanguageModel
    ffns: FFNs
    resolved: ResolvedModel
    calibrations: Mapping[str, Calibration]


class Worker:
    """Worker that runs one job at a time. A model stays loaded until a job needs another model.

    Args:
        setup: The study and the device.
        listener: Receives messages and progress.
    """

    def __init__(self, setup: WorkerSetup, listener: ProgressListener) -> None:
        self.spec = setup.spec
        self.device = setup.device
        self.objects = setup.objects
        self.listener = listener
        self.store = Store(setup.folder)
        self.tasks = {task.name: task for task in setup.spec.all_tasks(setup.objects)}
        self.provenance = collect_provenance()
        self._model: _LoadedModel | None = None
        self._examples: dict[str, dict[str, Any]] = {}
        self._block_tasks: dict[tuple[str, ExampleBlock], Task] = {}
        self._batches: dict[str, FittingBatch] = {}

    def run(self, job: Job) -> Outcome:
        """Run a job. Errors are returned as outcomes, not raised.

        Args:
            job: A trial, or the loading of a model.

        Returns:
            The outcome of the job.
        """
        try:
            model = self._load(job.model)
            if job.task is not None:
                self._run_trial(job, self._select_examples(self.tasks[job.task], job.block), model)
            return Outcome(OutcomeKind.FINISHED, resolved_model=model.resolved)
        except StorageError as error:
            return Outcome(OutcomeKind.STOP, str(error), "StorageError")
        except SparsedialError as error:
            return Outcome(OutcomeKind.INVALID, str(error), type(error).__name__)
        except Exception as error:
            if not is_memory_error(error):
                message = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
                return Outcome(OutcomeKind.ERROR, message)
            outcome = Outcome(OutcomeKind.OUT_OF_MEMORY, f"out of memory: {error}")
        free_memory()
        return outcome

    def _load(self, name: str) -> _LoadedModel:
        """Return a model. It is loaded unless it is the current model."""
        if self._model is not None and self._model.resolved.model == name:
            return self._model
        self._model = None
        self._examples = {}
        self._batches = {}
        gc.collect()  # frees the memory of the previous model
        lm = self._make_language_model(name)
        check_kind_has_phases(self.spec.phases, lm.kind, name)
        check_kind_has_likelihoods(self.spec.criterion, self.tasks.values(), lm.kind, name)
        if self.spec.mask_token is not None and lm.kind == CAUSAL:
            self.listener.log(
                f"{name}: the mask token {self.spec.mask_token} has no effect, because the model is causal"
            )
        ffns = find_ffns(lm.model, modules=self.spec.modules)
        sites = self._available_sites(lm, ffns)
        undefined = find_undefined_sites(self.spec, ffns, self.spec.sites or sites, self.listener.log)
        calibrations = self._prepare_calibrations(name, lm, ffns, sites, undefined)
        size = format_parameter_count(lm.parameters)
        resolved = ResolvedModel(
            model=name,
            identity=lm.identity(),
            sites=sites,
            ffns=ffns_digest(ffns, self.spec.layers),
            parameters=lm.parameters,
            calibrations={rule: calibration.digest for rule, calibration in calibrations.items()},
            undefined_sites=undefined,
            has_chat_template=has_chat_template(lm.tokenizer),
            text=f"{name}: {size} parameters, {ffns!r}, {lm.kind}, {lm.dtype} on {lm.device}",
        )
        self._model = _LoadedModel(lm, ffns, resolved, calibrations)
        return self._model

    def _prepare_calibrations(
        self, name: str, lm: LanguageModel, ffns: FFNs, sites: Sequence[str], undefined: Mapping[str, Sequence[str]]
    ) -> dict[str, Calibration]:
        """Return the calibrations of the rules at the sites where they are defined."""
        defined = {}
        for family in self.spec.rules:
            excluded = undefined.get(family, ())
            defined[family] = [site for site in self.spec.sites or sites if site not in excluded]
        progress = JobProgress(self.listener, f"{name}, calibration")
        return prepare_calibrations(CalibrationSource(self.spec, lm, ffns, self.store, progress), defined)

    def _make_language_model(self, name: str) -> LanguageModel:
        """Return the model in memory that has this name. If there is none, load the model."""
        if name in self.objects.models:
            return self.objects.models[name].make_language_model(self.spec.kind, self.spec.mask_token)
        try:
            source = resolve_source(name, trust_remote_code=self.spec.trust_remote_code, log=self.listener.log)
        except StorageError as error:  # the model cache cannot be written, which other models may not need
            raise ModelError(str(error)) from None
        check_weights_fit(source, self.device, self.spec.dtype)
        self.listener.log(f"loading {name} (from: {source.origin})")
        return load_language_model(
            source,
            device=self.device,
            dtype=self.spec.dtype,
            kind=self.spec.kind,
            mask_token=self.spec.mask_token,
            log=self.listener.log,
        )

    def _available_sites(self, lm: LanguageModel, ffns: FFNs) -> tuple[str, ...]:
        """Check that the model has all layers and sites of the spec, and return all sites that it has."""
        if self.spec.accelerated:
            check_kernels(lm.model, select_ffns(ffns, self.spec.layers))
        sites = []
        for site in self.spec.sites or ():
            check_site(select_owners(ffns, site, self.spec.layers), site)
            if site not in SITES:
                sites.append(site)
        if self.spec.sites is not None and set(self.spec.sites) <= set(OUTER_SITES):
            return tuple(sites)  # FFNs that cannot be sparsified do not matter
        selected = select_ffns(ffns, self.spec.layers)
        for site in SITES:
            reason = _unsupported_reason(selected, site)
            if self.spec.accelerated and site not in KERNEL_SITES:
                continue
            if reason is None:
                sites.append(site)
            elif self.spec.sites is None:
                self.listener.log(f"site {site!r} is not available: {reason}")
        return tuple(sites)

    def _run_trial(self, job: Job, task: Task, model: _LoadedModel) -> None:
        task = resolve_task(task, model.lm)
        calibration = find_calibration(model.calibrations, job.rule, job.site)
        trial = Trial(task, job.site, job.rule, self.spec.layers, calibration, self.spec.phases, self.spec.accelerated)
        if self.store.complete_trial(trial.identity(model.lm, model.ffns).key) is not None:
            return  # another worker, or another run, has finished it
        examples = self._prepare_examples(model.lm, task)
        progress = JobProgress(self.listener, str(job))
        progress(0, 1)
        batch = self._find_batch(model.lm, task)
        record, scores = trial.run(model.lm, model.ffns, examples, self.provenance, progress, batch)
        dense = self.store.trial(TrialIdentity(record.identity.model, record.identity.task).key)
        if dense is not None:
            check_count(task.name, len(scores.values), dense.result.examples, "as many as for the dense model")
        self.store.write_trial(record, scores.values, SampleLabels(scores.ids, scores.predictions, scores.columns))

    def _select_examples(self, task: Task, block: ExampleBlock | None) -> Task:
        """Return the task with one block of its examples. It is kept, because lm-eval tasks read their data."""
        if block is None or not isinstance(task, DivisibleTask):
            return task
        if (task.name, block) not in self._block_tasks:
            self._block_tasks[task.name, block] = task.select_examples(block)
        return self._block_tasks[task.name, block]

    def _find_batch(self, lm: LanguageModel, task: Task) -> FittingBatch | None:
        """Return the batch of a task, which is kept for later trials. None if the task has no batches."""
        if not isinstance(task, BatchedTask):
            return None
        if task.name not in self._batches:

            def log(message: str) -> None:
                self.listener.log(f"{lm.source.name}, {task.name}: {message}")

            self._batches[task.name] = FittingBatch(task.batch_rows(lm), log)
            log(f"batch of at most {self._batches[task.name].rows} rows per forward pass")
        return self._batches[task.name]

    def _prepare_examples(self, lm: LanguageModel, task: Task) -> dict[str, Any]:
        """Return the examples of a task. They are prepared once and kept for later runs."""
        key = TrialIdentity(lm.identity(), task.identity()).examples_key
        if key not in self._examples:
            examples = self.store.prepared(key)
            if examples is None:
                progress = JobProgress(self.listener, f"{lm.source.name}, {task.name}, preparing")
                examples = self.store.write_prepared(key, task.prepare(lm, progress))
            self._examples[key] = examples
        return self._examples[key]


def _unsupported_reason(ffns: Sequence[FFN], site: str) -> str | None:
    """Return the reason why an FFN does not have the site. None if all FFNs have it."""
    for ffn in ffns:
        reason = find_site(site).unsupported_reason(ffn)
        if reason:
            return reason
    return None
