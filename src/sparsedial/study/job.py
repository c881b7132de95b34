"""Jobs of workers, the ways in which jobs end, and the properties of loaded models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from sparsedial.models.identity import ModelIdentity
from sparsedial.rules import Rule, rule_from_json
from sparsedial.tasks.example_blocks import ExampleBlock

MAX_ATTEMPTS = 3
"""Number of failed attempts after which a job is not tried again."""


class OutcomeKind(StrEnum):
    """Ways in which a job can end. The values are stored on disk."""

    FINISHED = "finished"
    STOP = "stop"  # the study cannot be read or written, so the run has to end
    INVALID = "invalid"
    ERROR = "error"
    OUT_OF_MEMORY = "oom"
    KILLED = "killed"
    TIMEOUT = "timeout"
    UNREADABLE = "unreadable"

    @property
    def description(self) -> str:
        """Description of the outcome, as one clause."""
        return _DESCRIPTIONS[self]

    @property
    def is_final(self) -> bool:
        """True if another attempt would fail as well. Other failures can be due to the machine, so they are retried."""
        return self in (OutcomeKind.INVALID, OutcomeKind.ERROR)


_DESCRIPTIONS = {
    OutcomeKind.FINISHED: "it is finished",
    OutcomeKind.STOP: "the study could not be read or written",
    OutcomeKind.INVALID: "its numbers cannot be used (NaN, or a task that cannot be scored)",
    OutcomeKind.ERROR: "an unexpected error; the traceback is in the record",
    OutcomeKind.OUT_OF_MEMORY: "out of memory",
    OutcomeKind.KILLED: "its worker died",
    OutcomeKind.TIMEOUT: "it took longer than --timeout",
    OutcomeKind.UNREADABLE: "the record of the attempt is damaged",
}


@dataclass(frozen=True)
class Job:
    """Request to a worker: one trial, or the loading of a model.

    Attributes:
        model: Name of the model in the spec.
        task: Name of the task. None means that the model is loaded and its `ResolvedModel` is returned.
        site: Where the rule is applied. None for the dense run.
        rule: Which entries are kept. None for the dense run.
        block: Range of examples to score. None if the task cannot be divided.

    Example:
        >>> from sparsedial.rules import TopP
        >>> str(Job("tiny", "arc_easy", "input", TopP(0.9)))
        'tiny, arc_easy, input top_p 0.9'
        >>> str(Job("tiny", "arc_easy", block=ExampleBlock(64, 128)))
        'tiny, arc_easy, dense, examples 64 to 127'
    """

    model: str
    task: str | None = None
    site: str | None = None
    rule: Rule | None = None
    block: ExampleBlock | None = None

    def __str__(self) -> str:
        if self.task is None:
            return f"{self.model}, loading"
        examples = ""
        if self.block is not None and self.block.first > 0:
            examples = f", {self.block}"
        if self.rule is None:
            return f"{self.model}, {self.task}, dense{examples}"
        return f"{self.model}, {self.task}, {self.site} {self.rule.family} {self.rule.value:g}{examples}"

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` reads back."""
        rule = None if self.rule is None else self.rule.to_json()
        block = None if self.block is None else self.block.to_json()
        return {"model": self.model, "task": self.task, "site": self.site, "rule": rule, "block": block}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Return the job that `to_json` turned into ``data``.

        Args:
            data: Dictionary with the keys "model", "task", "site", "rule" and "block". The rule is a dictionary as
                well, or None. The block is a list of two indices, or None.
        """
        rule = None if data["rule"] is None else rule_from_json(data["rule"])
        block = None if data["block"] is None else ExampleBlock(*data["block"])
        return cls(data["model"], data["task"], data["site"], rule, block)


def _utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass(frozen=True)
class FailureRecord:
    """One failed attempt at a job, as stored in ``failed/<key>/``.

    Attributes:
        key: Key of the trial, or of the model that could not be loaded.
        kind: How the attempt ended.
        message: Error message, with the traceback if the error was unexpected.
        job: The job. None if the record is unreadable.
        time: UTC time of the attempt, such as "2026-01-31T12:00:00Z". Defaults to now.
    """

    key: str
    kind: OutcomeKind
    message: str
    job: Job | None = None
    time: str = field(default_factory=_utc_now)

    @property
    def summary(self) -> str:
        """First line of the message, or a description of the kind if there is no message."""
        if not self.message:
            return self.kind.description
        return self.message.splitlines()[0]

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` reads back."""
        job = None if self.job is None else self.job.to_json()
        return {"key": self.key, "kind": self.kind.value, "message": self.message, "job": job, "time": self.time}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FailureRecord:
        """Return the record that `to_json` turned into ``data``.

        Args:
            data: Dictionary with one entry per field. The kind is a value of `OutcomeKind`, and the job is a dictionary
                as returned by `Job.to_json`, or None. Other keys are ignored.
        """
        job = None if data["job"] is None else Job.from_json(data["job"])
        return cls(data["key"], OutcomeKind(data["kind"]), data["message"], job, data["time"])


@dataclass(frozen=True)
class ResolvedModel:
    """Properties of a loaded model that are needed for planning.

    Attributes:
        model: Name of the model in the spec.
        identity: Everything about the model that can change a result.
        ffns: Digest of the FFNs that are sparsified.
        sites: The sites that the model has.
        parameters: Number of parameters.
        calibrations: Digest of each calibration, with the keys of `prepare_calibrations`. Defaults to none.
        text: One-line description of the model for log output.
        has_chat_template: True if its tokenizer has a chat template. Defaults to False.
        undefined_sites: Sites at which a rule is not defined, by the family of the rule. Defaults to none.
    """

    model: str
    identity: ModelIdentity
    ffns: str
    sites: tuple[str, ...]
    parameters: int
    text: str = ""
    calibrations: Mapping[str, str] = field(default_factory=dict)
    has_chat_template: bool = False
    undefined_sites: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` reads back."""
        return {**asdict(self), "sites": list(self.sites)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ResolvedModel:
        """Return the model that `to_json` turned into ``data``.

        Args:
            data: Dictionary with one entry per field. The identity is a dictionary, and the sites are a list. The
                calibrations and the undefined sites may be missing. Other keys are not accepted.
        """
        identity = ModelIdentity.from_json(data["identity"])
        return cls(**{**data, "identity": identity, "sites": tuple(data["sites"])})
