"""Interface through which tasks send requests to models of all kinds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sparsedial.inference.generation import GeneratedTokens, Prompt
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import RunContext
from sparsedial.models.loading import LanguageModel


@dataclass(frozen=True)
class WindowScore:
    """Score of one continuation.

    Attributes:
        loglikelihood: Natural logarithm of the probability of the continuation, given its context.
        is_greedy: True if the model generates exactly this continuation when it always takes the most probable token.
    """

    loglikelihood: float
    is_greedy: bool


class InferenceBackend(Protocol):
    """Interface of an object that answers the requests of a task with one model. See `make_backend`."""

    @property
    def lm(self) -> LanguageModel:
        """The model and its tokenizer."""
        ...

    @property
    def kind(self) -> str:
        """The kind of the model: one of `sparsedial.models.kind.KINDS`."""
        ...

    def check_requests(self, task_name: str, *, needs_loglikelihoods: bool, generation_lengths: Iterable[int]) -> None:
        """Raise an error if the model cannot answer the requests of a task. The model is not run.

        Args:
            task_name: Name of the task, for error messages.
            needs_loglikelihoods: True if the task asks for log-likelihoods.
            generation_lengths: Maximum number of generated tokens of each request that asks for a text.

        Raises:
            TaskError: The model cannot compute log-likelihoods.
            SpecError: The denoising schedule does not fit one of the lengths.
        """
        ...

    def max_shared_length(self, groups: Sequence[Sequence[Window]], *, max_length: int, batch_tokens: int) -> int:
        """Return the maximum number of tokens of windows that may share prefixes, or 0 if no prefixes are shared.

        This method has to be called while the model is dense, because it runs the model to find the number.

        Args:
            groups: Windows that will be scored.
            max_length: Maximum number of tokens that the model reads.
            batch_tokens: Maximum number of tokens per forward pass.
        """
        ...

    def loglikelihoods(
        self,
        groups: Sequence[Sequence[Window]],
        *,
        max_length: int,
        max_shared_length: int,
        need_greedy: bool,
        run: RunContext,
    ) -> list[list[WindowScore]]:
        """Return the score of every window of every group.

        Args:
            groups: Windows that belong together, such as the options of one question. They may share prefixes.
            max_length: Maximum number of tokens that the model reads. Longer windows are cut on the left.
            max_shared_length: The value that `max_shared_length` returned for the dense model.
            need_greedy: True if `WindowScore.is_greedy` must be computed even if that needs additional forward
                passes. If False, `is_greedy` may be False for all windows.
            run: Settings of the evaluation.

        Returns:
            The scores, in the order of `groups` and of the windows in each group. A log-likelihood is NaN if
            the model's logits are not finite.

        Raises:
            TaskError: The model cannot compute log-likelihoods.
        """
        ...

    def generate(self, prompts: Sequence[Prompt], run: RunContext) -> list[GeneratedTokens]:
        """Return one generated text per prompt.

        Args:
            prompts: Prompts with their stop strings, length limits and sampling options.
            run: Settings of the evaluation.

        Returns:
            The texts, in the order of `prompts`.

        Raises:
            TaskError: The model does not support a sampling option.
            NonFiniteOutputError: A logit is NaN or infinite.
        """
        ...
