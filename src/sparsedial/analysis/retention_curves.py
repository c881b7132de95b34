"""The retention curve of every model, site, rule, choice of layers and task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sparsedial.analysis.labels import is_average, model_family, name_models, name_rule, name_tasks, task_digest
from sparsedial.analysis.trial_set import TrialSet
from sparsedial.curves.curve import Curve
from sparsedial.curves.perplexity import compare_likelihoods
from sparsedial.errors import SparsedialError
from sparsedial.ffn.feed_forward import BUILTIN_SITES
from sparsedial.models.identity import ModelIdentity
from sparsedial.study.canonical_json import json_digest
from sparsedial.study.criterion import PERPLEXITY, SCORE
from sparsedial.study.curve_from_trials import measured_curve
from sparsedial.study.likelihood_curve import likelihood_curve
from sparsedial.study.pooled_trials import PooledTrial
from sparsedial.study.records import TrialRecord
from sparsedial.study.score_scale import has_score_at_chance


@dataclass(frozen=True)
class CurveSetting:
    """Model, site, rule and layers of a curve. The curves of one group can be averaged over their tasks.

    Attributes:
        model: Display name of the model.
        family: Family of the model.
        parameters: Number of parameters.
        active_parameters: Number of parameters that one token uses.
        site: Where the rule was applied.
        rule: Name of the rule, with the phase if it was applied in one only, and the kernels: see `name_rule`.
        layers: Indices of the sparsified layers, or None if all are.
    """

    model: str
    family: str
    parameters: int
    active_parameters: int
    site: str
    rule: str
    layers: tuple[int, ...] | None


@dataclass(frozen=True)
class CurveLabel:
    """Label of a curve.

    Attributes:
        group: Model, site, rule and layers.
        task: Display name of the task, or of an average over tasks.
        metric: Name of the metric.
    """

    group: CurveSetting
    task: str
    metric: str

    def to_row(self) -> dict[str, Any]:
        """Return the label as columns of a table."""
        columns = asdict(self.group)
        columns["layers"] = None if self.group.layers is None else list(self.group.layers)
        return {**columns, "task": self.task, "metric": self.metric}


@dataclass(frozen=True)
class LabelledCurve:
    """A measured curve with its label and its trials.

    Attributes:
        label: Model, site, rule, layers, task and metric of the curve.
        curve: The measured points.
        dense: The dense trial. For an average, the dense trial of its first task.
        trials: The sparse trials. For an average, those of all its tasks.
        averaged_tasks: Display names of the tasks that the curve is averaged over. Empty for the curve of one task.
        chance: Expected score of random choices. 0 if it is not known.
        is_at_chance: True if the dense score cannot be told from chance, so that there is nothing to retain.
        likelihoods: The negative log-likelihoods per token at the same points. None if they were not asked for, or are
            not known, and for an average.
    """

    label: CurveLabel
    curve: Curve
    dense: PooledTrial
    trials: tuple[PooledTrial, ...]
    averaged_tasks: tuple[str, ...] = ()
    chance: float = 0.0
    is_at_chance: bool = False
    likelihoods: Curve | None = None

    @property
    def group(self) -> CurveSetting:
        """Model, site, rule and layers."""
        return self.label.group

    @property
    def name(self) -> str:
        """Model, site and task as text, for messages and notes."""
        return f"{self.group.model}, {self.group.site}, {self.label.task}"

    @property
    def dense_score(self) -> float:
        """The dense score in the unit of the metric. A curve of the perplexity criterion has the dense perplexity."""
        if self.label.metric == PERPLEXITY and self.likelihoods is not None:
            return float(np.exp(self.likelihoods.dense))
        return self.curve.dense

    @property
    def scores(self) -> np.ndarray:
        """The score of each point in the unit of the metric, shape [K]. See `dense_score`."""
        if self.label.metric == PERPLEXITY and self.likelihoods is not None:
            return np.exp(self.likelihoods.score)
        return self.curve.score

    @property
    def examples(self) -> int:
        """Number of examples that were scored, over all tasks."""
        if self.curve.examples:
            return sum(len(matrix) for matrix in self.curve.examples)
        counts: dict[str, int] = {}  # a curve does not hold the scores of a task with one example
        for trial in self.trials:
            counts[trial.task.name] = max(trial.result.examples, counts.get(trial.task.name, 0))
        return sum(counts.values())

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Sort key: family and size, then rule and layers, tasks before their average, then the site."""
        group = self.group
        task = self.label.task
        model_key = (group.family, group.parameters, group.model)
        site_key = (
            (BUILTIN_SITES.index(group.site), "") if group.site in BUILTIN_SITES else (len(BUILTIN_SITES), group.site)
        )
        return (*model_key, group.rule, group.layers or (), is_average(task), task, site_key)


@dataclass(frozen=True)
class DisplayNames:
    """Unique display names of everything in a set of trials.

    Attributes:
        models: Display name of each model identity.
        tasks: Display name for each `task_digest`.
    """

    models: dict[ModelIdentity, str]
    tasks: dict[str, str]

    @classmethod
    def from_trials(cls, records: Sequence[TrialRecord]) -> DisplayNames:
        """Name the models and tasks of these trials.

        Args:
            records: The trials of all studies.

        Returns:
            The display names.
        """
        return cls(name_models(records), name_tasks(records))

    def label(self, record: TrialRecord) -> CurveLabel:
        """Return the label of the curve that a sparse trial belongs to.

        Args:
            record: A sparse trial.

        Raises:
            ValueError: The trial is dense, so it belongs to no curve.
        """
        identity = record.identity
        if identity.site is None or identity.rule is None:
            raise ValueError("expected a sparse trial, got a dense trial, which belongs to no curve")
        group = CurveSetting(
            model=self.models[identity.model],
            family=model_family(record.model),
            parameters=record.model.parameters,
            active_parameters=record.model.active_parameters or record.model.parameters,
            site=identity.site,
            rule=name_rule(identity.rule.family, identity.phases, accelerated=bool(identity.accelerated)),
            layers=identity.layers,
        )
        return CurveLabel(group, self.tasks[task_digest(record)], record.result.metric)


@dataclass(frozen=True)
class _CurveKey:
    """Values that all trials of one curve share."""

    setting: str  # digest of the model and the task
    site: str
    variant: str  # digest of the rule, the layers, the FFNs, the phases and the kernels


def read_curves(
    trial_set: TrialSet, names: DisplayNames, criterion: str = SCORE
) -> tuple[list[LabelledCurve], list[str]]:
    """Read the curve of every model, site, rule, choice of layers and task.

    Args:
        trial_set: The trials.
        names: Display names of their models and tasks.
        criterion: "score". "both" reads the likelihoods as well. By "perplexity", they take the place of the scores,
            and tasks without them are left out.

    Returns:
        The curves in display order, and one sentence for each curve that could not be read.
    """
    dense_by_setting = {record.identity.setting: record for record in trial_set.trials if record.identity.is_dense}
    at_chance: dict[str, bool] = {}
    curves = []
    problems = []
    for key, label, trials in _labelled_groups(trial_set, names):
        name = f"{label.group.model}, {label.group.site}, {label.task}"
        dense = dense_by_setting.get(key.setting)
        if dense is None:
            problems.append(f"{name}: the curve is left out, because its dense trial is missing")
            continue
        try:
            points = measured_curve(trial_set, dense, trials)
        except SparsedialError as error:
            problems.append(f"{name}: the curve is left out: {error}")
            continue
        likelihoods = None if criterion == SCORE else likelihood_curve(trial_set, dense, trials)
        if criterion == PERPLEXITY:
            if likelihoods is None:
                problems.append(f"{name}: the curve is left out: its trials have no perplexity")
            else:
                shown = replace(label, metric=PERPLEXITY)
                points = compare_likelihoods(likelihoods)
                curves.append(LabelledCurve(shown, points, dense, tuple(trials), likelihoods=likelihoods))
            continue
        if key.setting not in at_chance:
            at_chance[key.setting] = has_score_at_chance(dense, dense.samples(trial_set))
        curves.append(
            LabelledCurve(
                label=label,
                curve=points,
                dense=dense,
                trials=tuple(trials),
                chance=dense.result.chance or 0.0,
                is_at_chance=at_chance[key.setting],
                likelihoods=likelihoods,
            )
        )
    return sorted(curves, key=lambda curve: curve.sort_key), problems


def _labelled_groups(trial_set: TrialSet, names: DisplayNames) -> list[tuple[_CurveKey, CurveLabel, list[PooledTrial]]]:
    """Return the key, the label and the trials of each curve. Its trials are sorted by sparsity.

    Curves with equal labels are distinguished by a variant in the name of the model.
    """
    groups: dict[_CurveKey, list[PooledTrial]] = defaultdict(list)
    for record in trial_set.trials:
        if not record.identity.is_dense:
            groups[_curve_key(record)].append(record)
    labels = {key: names.label(trials[0]) for key, trials in groups.items()}
    label_list = list(labels.values())
    labelled = []
    for key, trials in groups.items():
        label = labels[key]
        if label_list.count(label) > 1:  # for example if a study names the modules of the FFNs itself
            model = f"{label.group.model} (variant {key.variant[:8]})"
            label = replace(label, group=replace(label.group, model=model))
        labelled.append((key, label, sorted(trials, key=lambda record: record.result.sparsity)))
    return labelled


def _curve_key(record: TrialRecord) -> _CurveKey:
    identity = record.identity
    if identity.site is None or identity.rule is None:
        raise ValueError("expected a sparse trial, got a dense trial, which belongs to no curve")
    shared: dict[str, Any] = {"rule": identity.rule.family, "layers": identity.layers, "ffns": identity.ffns}
    if identity.phases is not None:
        shared["phases"] = identity.phases
    if identity.calibration is not None:
        shared["calibration"] = identity.calibration
    if identity.accelerated:
        shared["accelerated"] = True
    return _CurveKey(identity.setting, identity.site, json_digest(shared))
