"""Inference backend for causal models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sparsedial.inference.backend import WindowScore
from sparsedial.inference.generation import GeneratedTokens, Prompt
from sparsedial.inference.generation_engine import generate
from sparsedial.inference.loglikelihood import compute_loglikelihoods
from sparsedial.inference.prefix_sharing_check import find_max_shared_length
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import RunContext
from sparsedial.models.kind import CAUSAL
from sparsedial.models.loading import LanguageModel


@dataclass(frozen=True)
class CausalBackend:
    """Inference backend that computes exact log-likelihoods and generates text with a causal model.

    Attributes:
        lm: The model and its tokenizer.
    """

    kind: ClassVar[str] = CAUSAL

    lm: LanguageModel

    def check_requests(self, task_name: str, *, needs_loglikelihoods: bool, generation_lengths: Iterable[int]) -> None:
        """Accept all requests. See `InferenceBackend.check_requests`.

        Args:
            task_name: Name of the task.
            needs_loglikelihoods: True if the task asks for log-likelihoods.
            generation_lengths: Maximum number of generated tokens of each request that asks for a text.
        """

    def max_shared_length(self, groups: Sequence[Sequence[Window]], *, max_length: int, batch_tokens: int) -> int:
        """Return the maximum size of prefix trees. See `find_max_shared_length`.

        Args:
            groups: Windows that will be scored.
            max_length: Maximum number of tokens that the model reads.
            batch_tokens: Maximum number of tokens per forward pass.
        """
        return find_max_shared_length(self.lm.model, groups, max_length=max_length, batch_tokens=batch_tokens)

    def loglikelihoods(
        self,
        groups: Sequence[Sequence[Window]],
        *,
        max_length: int,
        max_shared_length: int,
        need_greedy: bool,
        run: RunContext,
    ) -> list[list[WindowScore]]:
        """Return the score of every window. See `InferenceBackend.loglikelihoods`.

        Args:
            groups: Windows that belong together.
            max_length: Maximum number of tokens that the model reads.
            max_shared_length: Maximum number of tokens of windows that share prefixes.
            need_greedy: Not used, because `is_greedy` is always computed at no additional cost.
            run: Settings of the evaluation.

        Returns:
            The scores, in the order of `groups`.
        """
        return compute_loglikelihoods(
            self.lm.model, groups, max_length=max_length, max_shared_length=max_shared_length, run=run
        )

    def generate(self, prompts: Sequence[Prompt], run: RunContext) -> list[GeneratedTokens]:
        """Continue every prompt. See `sparsedial.inference.generation_engine.generate`.

        Args:
            prompts: Prompts to continue.
            run: Settings of the evaluation.

        Returns:
            The continuations, in the order of `prompts`.
        """
        return generate(self.lm.model, self.lm.tokenizer, prompts, run)
