"""Typed records of a study: one finished trial, as kept in ``trials/<key>.json``, and its parts.

Records are immutable and are passed unchanged from the worker to the report. They are converted to JSON only when they
are written to disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import pandas as pd

from sparsedial.models.identity import ModelIdentity
from sparsedial.rules import Rule, recorded_rule_from_json
from sparsedial.study.canonical_json import json_digest
from sparsedial.study.provenance import Provenance
from sparsedial.tasks.base import TaskGroup
from sparsedial.tasks.example_blocks import without_examples

SCHEMA_VERSION = 4
"""Version of everything that a study writes to disk. A study with another version cannot be read."""

Count = TypeVar("Count", "SparsityCount", "StepOverlapCount")


@dataclass(frozen=True)
class TrialIdentity:
    """Everything that can change the result of a trial. Its digest is the trial's key.

    Attributes:
        model: The loaded model.
        task: The task, as JSON: its name, version and every option that changes a score. The entry "examples" is the
            range of the scored examples, see `sparsedial.tasks.example_blocks`.
        site: Where the rule is applied. None for the dense run.
        rule: Which entries are kept. None for the dense run.
        layers: Indices of the sparsified layers. None if all layers are sparsified, and for the dense run.
        ffns: Digest of the FFNs that are sparsified. None for the dense run.
        site_version: Version of the definition of a registered site. None for a built-in site and for the dense run.
        calibration: Digest of the calibration of the rule. None if it needs none, and for the dense run.
        phases: Phases in which the rule is applied. None if it is applied in all of them, and for the dense run.
        accelerated: True if the FFNs ran on kernels that skip the weights of dropped entries, otherwise None.
    """

    model: ModelIdentity
    task: Mapping[str, Any]
    site: str | None = None
    rule: Rule | None = None
    layers: tuple[int, ...] | None = None
    ffns: str | None = None
    site_version: int | None = None
    calibration: str | None = None
    phases: tuple[str, ...] | None = None
    accelerated: bool | None = None

    @property
    def is_dense(self) -> bool:
        """True if no rule is applied."""
        return self.site is None

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON: the name of the trial's file."""
        return json_digest(self.to_json())

    @property
    def task_settings(self) -> dict[str, Any]:
        """The task without the range of its examples."""
        return without_examples(self.task)

    @property
    def setting(self) -> str:
        """Digest of model and task. Trials of one setting can be compared on the examples that all of them scored."""
        return json_digest({"model": self.model.to_json(), "task": self.task_settings})

    @property
    def examples_key(self) -> str:
        """Digest of model, task and range of examples: the name of the file with the prepared examples."""
        return json_digest({"model": self.model.to_json(), "task": dict(self.task)})

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` reads back.

        The version of the site, the digest of the calibration, the phases and the kernels are left out if they are
        None, so that the keys of trials with built-in sites and rules in all phases stay what they are.
        """
        data: dict[str, Any] = {
            "model": self.model.to_json(),
            "task": dict(self.task),
            "site": self.site,
            "rule": None if self.rule is None else self.rule.to_json(),
            "layers": None if self.layers is None else list(self.layers),
            "ffns": self.ffns,
        }
        for name in ("site_version", "calibration", "accelerated"):
            if getattr(self, name) is not None:
                data[name] = getattr(self, name)
        if self.phases is not None:
            data["phases"] = list(self.phases)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrialIdentity:
        """Return the identity that `to_json` turned into ``data``.

        Args:
            data: Dictionary with one entry per field. The model and the task are dictionaries. The site, the rule, the
                layers and the digest of the FFNs are None for the dense run. A rule whose definition is not available
                is read as a `RecordedRule`.
        """
        return cls(
            model=ModelIdentity.from_json(data["model"]),
            task=dict(data["task"]),
            site=data["site"],
            rule=None if data["rule"] is None else recorded_rule_from_json(data["rule"]),
            layers=None if data["layers"] is None else tuple(data["layers"]),
            ffns=data["ffns"],
            site_version=data.get("site_version"),
            calibration=data.get("calibration"),
            phases=tuple(data["phases"]) if data.get("phases") else None,
            accelerated=data.get("accelerated"),
        )


@dataclass(frozen=True)
class ModelLabel:
    """Description of the model of a trial for a reader. It does not change the result.

    Attributes:
        name: The model's name as the user gave it.
        origin: Where the files came from, such as "hub Qwen/Qwen2.5-0.5B" or "zoo".
        parameters: Number of parameters.
        active_parameters: Number of parameters that one token uses. None if the routing of experts is not observable.
        device: Type of the torch device, such as "cpu".
        family: Name of the model family. Defaults to None, in which case it is derived from the name.
    """

    name: str
    origin: str
    parameters: int
    active_parameters: int | None
    device: str
    family: str | None = None


@dataclass(frozen=True)
class TaskLabel:
    """The name of a trial's task, and the group that averages it.

    Attributes:
        name: Name of the task.
        group: The lm-eval group whose average includes the task. None if there is no such group.
    """

    name: str
    group: TaskGroup | None = None


@dataclass(frozen=True)
class TrialResult:
    """Measured results of a trial.

    Attributes:
        metric: Name of the metric, such as "acc".
        score: Mean of the per-example scores.
        examples: Number of examples.
        dropped: Number of dropped entries, without those of padding tokens. 0 for the dense run.
        total: Number of entries that the rule was applied to, without those of padding tokens. 0 for the dense run.
        details: Further statistics by name, such as the mean number of generated tokens.
        higher_is_better: Direction of the metric. None if the record does not state it.
        chance: Expected score of random choices, such as 1/4 for questions with four options. None if it is not known.
        batch: Maximum number of rows per forward pass, in the unit of the option ``batch`` of the task. None if the
            record does not state it.
    """

    metric: str
    score: float
    examples: int
    dropped: int = 0
    total: int = 0
    details: Mapping[str, float] = field(default_factory=dict)
    higher_is_better: bool | None = field(default=None, compare=False)  # follows from the identity of the task, and
    chance: float | None = field(default=None, compare=False)  # older records of equal results do not have it
    batch: int | None = field(default=None, compare=False)

    @property
    def sparsity(self) -> float:
        """Dropped entries divided by all entries. 0 for the dense run."""
        if not self.total:
            return 0.0
        return self.dropped / self.total


@dataclass(frozen=True)
class SparsityCount:
    """Dropped and total entries of one activation vector, in one phase and denoising step.

    Attributes:
        layer: Index of the layer.
        module: Qualified name of the FFN.
        vector: "input", "up", "gate" or "intermediate".
        expert: Index of the expert. None for a dense FFN.
        phase: "prefill" or "generation".
        step: Denoising step. None for autoregressive models.
        dropped: Number of dropped entries.
        total: Number of entries.
        tokens: Number of real tokens. For an expert, the number of real tokens that were routed to it.
        weight: The expert's share of the layer's routing weight. None if it is not observable.
        segment: "thinking" or "answer" in the phase "generation" of a model with thinking markers. Otherwise None.
    """

    layer: int
    module: str
    vector: str
    expert: int | None
    phase: str
    step: int | None
    dropped: int
    total: int
    tokens: int
    weight: float | None
    segment: str | None = None


@dataclass(frozen=True)
class StepOverlapCount:
    """Sparsity and overlap of the kept sets of one activation vector at one denoising step.

    Attributes:
        layer: Index of the layer.
        module: Qualified name of the FFN.
        vector: "input", "up", "gate" or "intermediate".
        step: Denoising step.
        state: "masked" (still to be filled in) or "revealed".
        tokens: Number of tokens in that state.
        dropped: Number of dropped entries.
        total: Number of entries.
        compared: Number of tokens for which the kept set of an earlier step is known.
        overlap_previous: Mean Jaccard index with the previous step. None if no token was compared.
        overlap_first: Mean Jaccard index with the first step. None if no token was compared.
    """

    layer: int
    module: str
    vector: str
    step: int
    state: str
    tokens: int
    dropped: int
    total: int
    compared: int
    overlap_previous: float | None
    overlap_first: float | None


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial.

    Attributes:
        identity: Everything that can change the result. Its digest is `key`.
        model: Description of the model.
        task: Name and group of the task.
        result: Measured results.
        counts: Dropped and total entries by FFN, vector, phase and step. Empty for the dense run.
        skippable_macs: For each vector of the site, the share of the FFNs' multiply-accumulates that could be skipped
            if all of that vector's entries were dropped. Empty for the dense run.
        seconds: Duration of the evaluation.
        provenance: Software versions and hardware.
        step_overlap: Overlap of kept sets by denoising step. Empty if the model has no denoising steps.
        samples_sha256: SHA-256 of the file with the per-example scores. Empty until the trial is stored.
        weight_share: Share of all weights that the model reads per token that belongs to the sparsified FFNs, or to the
            projections of a site outside of them. None if it is unknown, and for the dense run.
    """

    identity: TrialIdentity
    model: ModelLabel
    task: TaskLabel
    result: TrialResult
    counts: tuple[SparsityCount, ...]
    skippable_macs: Mapping[str, float]
    seconds: float
    provenance: Provenance
    step_overlap: tuple[StepOverlapCount, ...] = ()
    samples_sha256: str = ""
    weight_share: float | None = None

    @property
    def key(self) -> str:
        """Digest of the identity: the name of the trial's file."""
        return self.identity.key

    @property
    def p(self) -> float:
        """The rule parameter. NaN for the dense run."""
        rule = self.identity.rule
        if rule is None:
            return math.nan
        return rule.value

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` reads back."""
        data = asdict(self)
        data["identity"] = self.identity.to_json()
        for count in data["counts"]:
            if count["segment"] is None:  # most models have no segments
                del count["segment"]
        if data["weight_share"] is None:
            del data["weight_share"]
        return {**data, "schema": SCHEMA_VERSION, "key": self.key}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrialRecord:
        """Return the record that `to_json` turned into ``data``.

        Args:
            data: Dictionary with one entry per field. The entries "schema" and "key" are ignored: the schema version is
                not checked, and the key is computed from the identity.
        """
        group = data["task"]["group"]
        return cls(
            identity=TrialIdentity.from_json(data["identity"]),
            model=ModelLabel(**data["model"]),
            task=TaskLabel(data["task"]["name"], None if group is None else TaskGroup.from_json(group)),
            result=TrialResult(**data["result"]),
            counts=tuple(SparsityCount(**row) for row in data["counts"]),
            skippable_macs=dict(data["skippable_macs"]),
            seconds=data["seconds"],
            provenance=Provenance.from_json(data["provenance"]),
            step_overlap=tuple(StepOverlapCount(**row) for row in data["step_overlap"]),
            samples_sha256=data["samples_sha256"],
            weight_share=data.get("weight_share"),
        )


def counts_from_table(table: pd.DataFrame, record_type: type[Count]) -> tuple[Count, ...]:
    """Return one record per row of a table, with None for missing values.

    Args:
        table: Table with one column per field of ``record_type``. The column ``segment`` may be missing.
        record_type: `SparsityCount` or `StepOverlapCount`.

    Returns:
        The records, in the order of the rows.
    """
    names: Sequence[str] = list(record_type.__dataclass_fields__)
    columns = table.reindex(columns=list(names)) if "segment" in names else table[names]
    values = columns.astype(object).where(columns.notna(), None)
    return tuple(record_type(*row) for row in values.itertuples(index=False))
