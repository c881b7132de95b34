"""The number of tokens that a task makes a model process, as far as it is known without running the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from sparsedial.models.loading import LanguageModel


@dataclass(frozen=True)
class Workload:
    """The work of one trial over some examples.

    Attributes:
        examples: Number of examples.
        prefill_tokens: Tokens in forward passes that read many tokens of a sequence at once.
        scored_tokens: Positions at which the output layer runs in these passes.
        fewest_generated_tokens: Tokens that are generated one by one if answers are as short as can be expected.
        most_generated_tokens: Tokens that are generated one by one if every answer reaches its limit.
        longest_row: Tokens of the longest sequence, with those that are generated.
        preparation: Work that is done once per model, before the first trial. None if it needs no forward pass.
    """

    examples: int
    prefill_tokens: float = 0.0
    scored_tokens: float = 0.0
    fewest_generated_tokens: float = 0.0
    most_generated_tokens: float = 0.0
    longest_row: int = 0
    preparation: Workload | None = field(default=None, repr=False)

    def scaled(self, examples: int) -> Workload:
        """Return the work of another number of examples of the same kind.

        Args:
            examples: Number of examples.
        """
        factor = examples / max(1, self.examples)
        return replace(
            self,
            examples=examples,
            prefill_tokens=self.prefill_tokens * factor,
            scored_tokens=self.scored_tokens * factor,
            fewest_generated_tokens=self.fewest_generated_tokens * factor,
            most_generated_tokens=self.most_generated_tokens * factor,
        )


@runtime_checkable
class EstimatedTask(Protocol):
    """Interface of tasks that know the work of their trials."""

    def workload(self, lm: LanguageModel) -> Workload:
        """Return the work of one trial over all examples that the options request.

        Args:
            lm: The model, whose weights may be on the device "meta", and its tokenizer.

        Raises:
            TaskError: The task does not work with this model.
        """
        ...


def prefill_workload(rows: int, length: int, passes: float = 1.0, scored_share: float = 1.0) -> Workload:
    """Return the work of forward passes over rows of equal length.

    Args:
        rows: Number of examples.
        length: Tokens of each.
        passes: Forward passes over each row. Defaults to 1.
        scored_share: Share of the positions whose logits are computed. Defaults to 1.
    """
    tokens = rows * length * passes
    return Workload(rows, tokens, tokens * scored_share, longest_row=length)


def row_workload(rows: Sequence[Sequence[int]]) -> Workload:
    """Return the work of one forward pass over rows of tokens, with logits at every position.

    Args:
        rows: Token IDs of each example.
    """
    tokens = sum(map(len, rows))
    return Workload(len(rows), tokens, tokens, longest_row=max(map(len, rows), default=0))
