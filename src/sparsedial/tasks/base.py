"""The interface of a task: it prepares examples once and scores them under any sparsifier."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sparsedial.hooks.forward_context import PHASES
from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.inference.run_context import Progress, ignore_progress
from sparsedial.models.loading import LanguageModel

GENERATION_COLUMNS = ("generated_tokens", "limit_hit", "prompt_tokens")
"""Columns of an example for which a text was generated: numbers of tokens, and whether it hit its maximum length."""

SEGMENT_COLUMNS = ("thinking_tokens", "answer_tokens", "has_thinking", "unclosed", "limit_hit_thinking")
"""Further columns if the text is divided into thinking and answer: numbers of tokens, whether the text begins to think,
whether it ends while it thinks, and whether it does so because it reached its maximum length."""

NLL = "nll"
NLL_TOKENS = "nll_tokens"
LIKELIHOOD_COLUMNS = (NLL, NLL_TOKENS)
"""Columns of an example whose reference text has a likelihood: the sum of the negative log-likelihoods of its tokens in
nats, and their number. For a task of lm-eval, the number is in the unit of its perplexity, such as words."""


@dataclass(frozen=True)
class Scores:
    """Scores of a task: one number per example, in the order of the prepared examples.

    Attributes:
        metric: Name of the metric that the numbers are values of, for example ``acc`` or ``exact_match``.
        values: Score of each example, shape [examples], float64. The score of the task is their mean.
        details: Further figures of this evaluation by name, for example the mean length of generated texts.
        higher_is_better: Direction of the metric. A report leaves a task out if this is None and the metric is not
            one whose direction is known.
        chance: Expected score of random choices, for example 1/4 for questions with four options. None if it is not
            known.
        predictions: What the model predicted for each example, as text: for example the chosen option, the generated
            text, or a JSON list of token IDs. Empty if the task does not record it.
        ids: Name of each example, for example its ID in a data set. Empty if the examples have only indices.
        columns: Further numbers of each example by name, float64 of shape [examples]: for example those of
            `GENERATION_COLUMNS`, from which a report computes what the generated texts cost, or those of
            `LIKELIHOOD_COLUMNS`, from which it computes perplexities.
    """

    metric: str
    values: np.ndarray
    details: Mapping[str, float] = field(default_factory=dict)
    higher_is_better: bool | None = None
    chance: float | None = None
    predictions: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Score of the task."""
        return float(self.values.mean())


def tokens_to_text(rows: Iterable[Iterable[int]]) -> tuple[str, ...]:
    """Return a JSON list of token IDs for each example, as `Scores.predictions` takes it.

    Args:
        rows: Token IDs of each example.

    Example:
        >>> tokens_to_text([[5, 6], [7]])
        ('[5, 6]', '[7]')
    """
    return tuple(json.dumps(list(row)) for row in rows)


@dataclass(frozen=True)
class TaskGroup:
    """Group of tasks that are requested by one name.

    Attributes:
        name: Name of the group.
        by_size: True if the score of the group is the mean over all examples of its tasks, False if it is the mean
            over the scores of its tasks, None if the group is only a list of tasks and has no score.
        members: Names of the tasks that are averaged. Empty if the group has no score.
    """

    name: str
    by_size: bool | None = None
    members: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskGroup:
        """Return the group whose fields are in ``data``.

        Args:
            data: Plain JSON with the keys ``name``, ``by_size`` and ``members``, as in a stored trial record.
        """
        return cls(data["name"], data["by_size"], tuple(data["members"]))


def scored_phases(task: object) -> tuple[str, ...]:
    """Return the phases of the forward passes with which a task scores a model.

    Args:
        task: A task. Its attribute ``phases`` is ``("prefill",)`` if it generates no text, and ``()`` if only diffusion
            models have its forward passes. Without the attribute, all phases are possible.
    """
    phases: tuple[str, ...] = getattr(task, "phases", PHASES)
    return phases


class Task(Protocol):
    """Interface of a task, which defines how a model is scored.

    Custom tasks implement this interface. A task is immutable and has no state. A study calls `identity` to name its
    trials, `prepare` once per model, and `score` once per trial with the examples that `prepare` returned. A task with
    an attribute ``needs_tokenizer`` that is True is never run on a model in memory that has no tokenizer. An attribute
    ``phases`` names the phases of the forward passes that are scored, see `scored_phases`.
    """

    @property
    def name(self) -> str:
        """Short name, unique within a study."""
        ...

    @property
    def reuse_mask(self) -> int:
        """Number of denoising steps for which a diffusion model reuses its kept sets. 1 turns reuse off."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return everything about the task that changes the score, as plain JSON.

        Trials are stored under a hash of this dictionary. It contains at least the key ``task`` with the name, and a
        version that is incremented when the same settings would give other numbers. The scores of a model must not
        depend on anything else, so data sets are included as a hash. The number of rows per forward pass changes
        scores by rounding only and is left out: see `sparsedial.tasks.batch_option.BatchedTask`.
        """
        ...

    def prepare(self, lm: LanguageModel, progress: Progress = ignore_progress) -> dict[str, Any]:
        """Return the examples for one model.

        No sparsifier is attached to the model when this method is called, so examples may be sampled from the model.

        Args:
            lm: Loaded model and its tokenizer.
            progress: Called with the units of work done and in total.

        Returns:
            The examples as plain JSON: dictionaries with text keys, lists, text, finite numbers, booleans and None.
            They are written to disk, and every trial of the model reads them back. The keys are private to the task.
            The order of the examples is the order of the scores, for all trials.

        Raises:
            TaskError: The task does not work with this model.
        """
        ...

    def score(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        sparsifier: Sparsifier | None = None,
        progress: Progress = ignore_progress,
    ) -> Scores:
        """Return one score for each example.

        A task may assume that ``examples`` equals what `prepare` returned for a model of the same identity, after a
        round trip through JSON (so tuples are lists). It must not change them, since trials share them.

        Args:
            lm: Loaded model and its tokenizer.
            examples: Examples from `prepare`.
            sparsifier: Sparsifier that is already attached to ``lm.model``, or None for the dense model. The task
                runs its forward passes inside of `Sparsifier.observe`, which receives the phase, the denoising step
                and the mask of real tokens, so that padding is not counted.
            progress: Called with the units of work done and in total.

        Returns:
            Finite scores in the order of the examples. Every trial has the same number of scores.

        Raises:
            TaskError: The model's output cannot be scored, for example because it is NaN.
        """
        ...
