"""What a study takes, for each model and task, and which of them cannot be run. No weights are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch

from sparsedial.acceleration.backend import load_backend
from sparsedial.dtype_names import dtype_name
from sparsedial.errors import SparsedialError
from sparsedial.models.device_memory import GIB, count_device_memory
from sparsedial.models.loading import SPREAD, pick_device, pick_dtype
from sparsedial.models.model_outline import ModelOutline, outline_model
from sparsedial.study.cost.cards import Card, find_card, find_machine_card
from sparsedial.study.cost.disk import estimate_trial_bytes
from sparsedial.study.cost.memory import MemoryNeed, estimate_memory
from sparsedial.study.cost.task_check import CheckedTask, check_tasks, find_general_problem, select_runnable
from sparsedial.study.cost.trial_time import SecondsRange, estimate_trial
from sparsedial.study.criterion import check_kind_has_likelihoods
from sparsedial.study.dry_run import Preview, preview_study
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.job import Job
from sparsedial.study.phase_choice import check_kind_has_phases
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.tasks.base import Task
from sparsedial.tasks.model_kinds import KindCheckingTask
from sparsedial.tasks.workload import EstimatedTask, Workload


@dataclass(frozen=True)
class Resources:
    """Devices and workers that a study would run on.

    Attributes:
        card: Measured device from which time is estimated. None if it was not measured.
        device: Device of the models, which need not exist on this machine.
        memory: Memory of one worker in bytes.
        cards_per_worker: Number of devices of each worker.
        workers: Number of workers.
    """

    card: Card | None
    device: torch.device
    memory: int
    cards_per_worker: float = 1.0
    workers: int = 1


@dataclass(frozen=True)
class ModelNeeds:
    """Memory, time and disk of one model, and why it cannot be run.

    Attributes:
        model: Name of the model.
        parameters: Number of parameters. None if its shape is not known.
        memory: Memory at the default batch. None if its shape is not known.
        download: Size of the checkpoint in bytes.
        trials: Trials that can be planned now, and the largest number of trials.
        time: Seconds of one worker for these numbers of trials. None if it cannot be estimated.
        problem: Why the model cannot be run. None if it can.
        notes: What the user has to know about these numbers.
    """

    model: str
    parameters: int | None = None
    memory: MemoryNeed | None = None
    download: int = 0
    trials: tuple[int, int] = (0, 0)
    time: SecondsRange | None = None
    problem: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyNeeds:
    """Memory, time and disk of a study, and what of it cannot be run.

    Attributes:
        resources: Where it would run.
        models: The needs of each model.
        tasks: The tasks and their problems.
        general_problem: A problem that concerns several tasks together. None if there is none.
        preview: The trials of the models and tasks that can be run. None if there are none.
        disk: Bytes of the study's own files, for the largest number of trials.
    """

    resources: Resources
    models: Sequence[ModelNeeds]
    tasks: Sequence[CheckedTask]
    general_problem: str | None
    preview: Preview | None
    disk: int

    @property
    def problems(self) -> list[str]:
        """Why models and tasks cannot be run, with one message for each of them."""
        problems = [*(model.problem for model in self.models), *(task.problem for task in self.tasks)]
        return list(filter(None, [*problems, self.general_problem]))

    @property
    def can_run(self) -> bool:
        """True if all models and tasks can be run."""
        return not self.problems

    @property
    def download(self) -> int:
        """Size of all checkpoints in bytes."""
        return sum(model.download for model in self.models)

    @property
    def time(self) -> SecondsRange | None:
        """Seconds of one worker for all models whose time is known. None if there is none."""
        total = None
        for model in self.models:
            if model.time is not None:
                total = model.time + (total or SecondsRange())
        return total


def choose_resources(device: str, executor: ExecutorConfig, card_name: str | None = None) -> Resources:
    """Return where a study would run.

    Args:
        device: Device of the models, as in `load_language_model`.
        executor: The workers.
        card_name: Part of the name of a measured device. Defaults to None, which means the device of this machine.

    Raises:
        SpecError: The device or the card is unknown.
    """
    workers = executor.number or 1
    if card_name is None:
        torch_device = pick_device(device)
        cards = executor.gpus or 1.0
        return Resources(find_machine_card(torch_device), torch_device, count_device_memory(device), cards, workers)
    card = find_card(card_name)
    cards = 1.0
    memory = card.memory
    if card.device == "cuda":
        cards = executor.gpus or 1.0
    if device == SPREAD:
        memory = int(memory * max(1.0, cards))
    return Resources(card, torch.device(card.device), memory, cards, workers)


def find_needs(spec: StudySpec, store: Store, resources: Resources) -> StudyNeeds:
    """Return what a study takes, and which of its models and tasks cannot be run.

    Args:
        spec: The study, whose other settings have no problems.
        store: Directory of the study. It need not exist.
        resources: Where it would run.
    """
    missing = spec.find_missing_models()
    checked = check_tasks(spec)
    general_problem = find_general_problem(spec, checked)
    models = tuple(model for model in dict.fromkeys(spec.models) if model not in missing)
    tasks: dict[str, Task] = {}
    for entry in checked:
        for task in entry.tasks:
            tasks[task.name] = task
    preview = None
    runnable = select_runnable(spec, checked)
    if models and runnable is not None and general_problem is None:
        preview = preview_study(replace(runnable, models=models), store)
    needs = []
    disk = 0
    for model in dict.fromkeys(spec.models):
        if model in missing:
            needs.append(ModelNeeds(model, problem=missing[model]))
            continue
        trials = _count_trials(preview, model)
        try:
            estimate = _ModelEstimate(_outline(model, spec, resources), tasks, resources)
        except SparsedialError as error:
            needs.append(ModelNeeds(model, trials=trials, notes=(str(error),)))
            continue
        model_needs = estimate.find_needs(preview, trials)
        problem = _find_setting_problem(spec, estimate.outline, tasks.values()) or model_needs.problem
        needs.append(replace(model_needs, problem=problem))
        disk += estimate.count_bytes(preview, trials)
    return StudyNeeds(resources, needs, checked, general_problem, preview, disk)


def _find_setting_problem(spec: StudySpec, outline: ModelOutline, tasks: Collection[Task]) -> str | None:
    """Return why a model does not have what the study asks for. Only what its shape tells is checked."""
    name = outline.lm.source.name
    try:
        check_kind_has_phases(spec.phases, outline.lm.kind, name)
        if spec.kind is not None or outline.is_kind_known:
            check_kind_has_likelihoods(spec.criterion, tasks, outline.lm.kind, name)
            for task in tasks:
                if isinstance(task, KindCheckingTask):
                    task.check_kind(outline.lm)
        if spec.accelerated:
            backend = load_backend(outline.lm.device)
            dtypes = list(map(dtype_name, backend.dtypes))
            if outline.lm.dtype not in dtypes:
                expected = " or ".join(dtypes)
                return f"model {name!r}: dtype {outline.lm.dtype}: expected {expected} for accelerated trials"
    except SparsedialError as error:
        return str(error)
    if spec.accelerated and spec.layers is None and outline.experts > 1:
        return (
            f"model {name!r}: accelerated trials need dense FFNs, and this model has experts. Leave out accelerated, "
            "or choose its layers with dense FFNs."
        )
    return None


def _outline(model: str, spec: StudySpec, resources: Resources) -> ModelOutline:
    return outline_model(
        model,
        device=resources.device,
        dtype=pick_dtype(spec.dtype, resources.device),
        trust_remote_code=spec.trust_remote_code,
        kind=spec.kind,
    )


class _ModelEstimate:
    """Estimate for one model of a study.

    Args:
        outline: Shape of the model.
        tasks: Tasks of the study by name.
        resources: Where the study would run.
    """

    def __init__(self, outline: ModelOutline, tasks: Mapping[str, Task], resources: Resources) -> None:
        self.outline = outline
        self.resources = resources
        self.notes: list[str] = []
        self.workloads: dict[str, Workload] = {}
        for name, task in tasks.items():
            self._add_workload(name, task)

    def _add_workload(self, name: str, task: Task) -> None:
        if not isinstance(task, EstimatedTask):
            self.notes.append(f"{name}: its time is not included, because the task does not state its work")
            return
        try:
            self.workloads[name] = task.workload(self.outline.lm)
        except SparsedialError as error:
            self.notes.append(str(error))

    def find_needs(self, preview: Preview | None, trials: tuple[int, int]) -> ModelNeeds:
        """Return the needs of the model for the trials of a preview."""
        memory = estimate_memory(self.outline, self.workloads.values())
        problem = self._find_memory_problem(memory)
        return ModelNeeds(
            model=self.outline.lm.source.name,
            parameters=self.outline.parameters,
            memory=memory,
            download=self.outline.stored_bytes,
            trials=trials,
            time=self._estimate_time(preview),
            problem=problem,
            notes=tuple(self.notes),
        )

    def _find_memory_problem(self, memory: MemoryNeed) -> str | None:
        """Return why the model does not fit. If it fits with smaller batches only, a note is added."""
        available = self.resources.memory
        if memory.total <= available:
            return None
        smallest = estimate_memory(self.outline, self.workloads.values(), rows=1)
        if smallest.total <= available:
            self.notes.append(f"{memory.total / GIB:.1f} GiB at the default batch, so smaller batches will be used")
            return None
        return (
            f"model {self.outline.lm.source.name!r}: needs {smallest.total / GIB:.1f} GiB, of which "
            f"{smallest.weights / GIB:.1f} GiB are weights, but a worker has {available / GIB:.1f} GiB. Use a larger "
            f"device, or {ceil(smallest.total / available)} of them for each worker (--device spread, with Ray also "
            "--gpus-per-worker)."
        )

    def _estimate_time(self, preview: Preview | None) -> SecondsRange | None:
        card = self.resources.card
        if card is None or preview is None:
            return None
        total = SecondsRange()
        prepared = set()
        for job in self._jobs(preview):
            work = self.workloads.get(str(job.task))
            if work is None:
                continue
            total += estimate_trial(self.outline, work, card, job.site) * _example_share(job, work)
            if work.preparation is not None and job.task not in prepared:
                prepared.add(job.task)
                total += estimate_trial(self.outline, work.preparation, card, None)
        return SecondsRange(total.low, total.high + self._estimate_further_seconds(preview, card))

    def _estimate_further_seconds(self, preview: Preview, card: Card) -> float:
        """Return the longest duration of the trials that searches can add."""
        seconds = 0.0
        for (model, task), count in preview.further_trials.items():
            work = self.workloads.get(task)
            sparse = [job for job in self._jobs(preview) if job.task == task and job.rule is not None]
            if model != self.outline.lm.source.name or work is None or not sparse:
                continue
            for job in sparse:  # further trials are like the first ones
                trial = estimate_trial(self.outline, work, card, job.site)
                seconds += trial.high * _example_share(job, work) * count / len(sparse)
        return seconds

    def count_bytes(self, preview: Preview | None, trials: tuple[int, int]) -> int:
        """Return the size of the study's files for the largest number of trials of this model."""
        if preview is None:
            return 0
        total = 0
        for job in self._jobs(preview):
            work = self.workloads.get(str(job.task))
            examples = 0
            if job.block is not None:
                examples = len(job.block)
            elif work is not None:
                examples = work.examples
            total += estimate_trial_bytes(self.outline, examples, job.rule is not None)
        return int(total * trials[1] / max(1, trials[0]))

    def _jobs(self, preview: Preview) -> Sequence[Job]:
        return _select_jobs(preview, self.outline.lm.source.name)


def _select_jobs(preview: Preview, model: str) -> Sequence[Job]:
    return [job for job in preview.jobs if job.model == model and job.task is not None]


def _count_trials(preview: Preview | None, model: str) -> tuple[int, int]:
    """Return the number of trials that can be planned now, and the largest number of trials."""
    if preview is None:
        return (0, 0)
    first = len(_select_jobs(preview, model))
    most = first
    for (name, _), count in preview.further_trials.items():
        if name == model:
            most += count
    return first, most


def _example_share(job: Job, work: Workload) -> float:
    """Return the share of the examples of its task that a job scores."""
    if job.block is None:
        return 1.0
    return len(job.block) / max(1, work.examples)
