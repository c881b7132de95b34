"""Provenance of the numbers of a report: versions, machine, models, tasks, studies and commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sparsedial.analysis.labels import task_digest
from sparsedial.analysis.retention_curves import DisplayNames
from sparsedial.analysis.trial_set import TrialSet
from sparsedial.study.records import TrialRecord


@dataclass(frozen=True)
class ModelOrigin:
    """The name and the origin of a measured model.

    Attributes:
        name: Display name of the model.
        origin: Description of its files, such as ``hub Qwen/Qwen2.5-0.5B``. Empty if it is not known.
    """

    name: str
    origin: str

    @property
    def description(self) -> str:
        """The name, followed by the origin if it is known."""
        if not self.origin:
            return self.name
        return f"{self.name} ({self.origin})"


def summarize_provenance(trial_set: TrialSet, names: DisplayNames) -> dict[str, Any]:
    """Return the versions, machine, models, tasks, studies and commands that produced the numbers.

    Args:
        trial_set: The trials.
        names: Display names of their models and tasks.

    Returns:
        Plain data by topic: "made by", "models", "tasks", "study" or "studies", number of trials, seconds, and the
        command or commands that run the studies.
    """
    trials = trial_set.block_trials
    specs = []
    commands: list[Any] = []
    for spec in trial_set.specs:
        specs.append(spec.to_json())
        if spec.in_memory:
            commands.append(spec.python_call())
        else:
            commands.append(spec.command())
    models: dict[str, dict[str, Any]] = {}
    tasks: dict[str, Mapping[str, Any]] = {}
    seconds = 0.0
    for record in trials:
        models[names.models[record.identity.model]] = {**asdict(record.model), **record.identity.model.to_json()}
        tasks[names.tasks[task_digest(record)]] = record.identity.task_settings
        seconds += record.seconds
    return {
        "made by": _merge_provenance(trials),
        "models": models,
        "tasks": tasks,
        **_one_or_many("study", "studies", specs),
        "trials": len(trials),
        "trials of other settings, not shown": trial_set.excluded,
        "seconds": round(seconds, 1),
        **_one_or_many("command", "commands", commands),
    }


def find_origins(provenance: Mapping[str, Any]) -> tuple[ModelOrigin, ...]:
    """Return the origin of each model.

    Args:
        provenance: ``Results.provenance``. Its entry ``models`` maps the name of each model to its label.

    Returns:
        One entry per model. Empty if the provenance has no models.
    """
    models = provenance.get("models")
    if not isinstance(models, Mapping):
        return ()
    return tuple(ModelOrigin(str(name), str(label.get("origin") or "")) for name, label in models.items())


def _merge_provenance(trials: Iterable[TrialRecord]) -> Any:
    """Return the provenance that all trials share, or else a list of the distinct ones."""
    distinct: list[dict[str, Any]] = []
    for record in trials:
        provenance = record.provenance.to_json()
        if provenance not in distinct:
            distinct.append(provenance)
    if len(distinct) == 1:
        return distinct[0]
    return distinct


def _one_or_many(singular: str, plural: str, values: list[Any]) -> dict[str, Any]:
    if len(values) == 1:
        return {singular: values[0]}
    return {plural: values}
