"""Inference backend for block diffusion models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sparsedial.errors import TaskError
from sparsedial.inference.backend import WindowScore
from sparsedial.inference.batching import regroup
from sparsedial.inference.block_diffusion_generation import generate_blocks
from sparsedial.inference.diffusion_options import DEFAULT_DIFFUSION_OPTIONS, DiffusionOptions
from sparsedial.inference.generation import GeneratedTokens, Prompt, cut_at_end_token, sample_seeds
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import RunContext
from sparsedial.models.kind import BLOCK_DIFFUSION
from sparsedial.models.loading import LanguageModel


@dataclass(frozen=True)
class BlockDiffusionBackend:
    """Inference backend that generates text with a block diffusion model's own `generate`, one prompt at a time.

    Attributes:
        lm: The model and its tokenizer.
        options: Settings of text generation. The number of steps is the only denoising setting that is used.
    """

    kind: ClassVar[str] = BLOCK_DIFFUSION

    lm: LanguageModel
    options: DiffusionOptions = DEFAULT_DIFFUSION_OPTIONS

    def check_requests(self, task_name: str, *, needs_loglikelihoods: bool, generation_lengths: Iterable[int]) -> None:
        """Raise an error if the task asks for log-likelihoods. See `InferenceBackend.check_requests`.

        Args:
            task_name: Name of the task, for the error message.
            needs_loglikelihoods: True if the task asks for log-likelihoods.
            generation_lengths: Maximum number of generated tokens of each request that asks for a text.

        Raises:
            TaskError: The task asks for log-likelihoods.
        """
        if needs_loglikelihoods:
            raise TaskError(
                f"task {task_name!r} asks for log-likelihoods, but {self.lm.source.name!r} is a {self.kind} model, "
                "which cannot compute them: expected a task that generates text"
            )

    def max_shared_length(self, groups: Sequence[Sequence[Window]], *, max_length: int, batch_tokens: int) -> int:
        """Return 0, because block diffusion models do not score windows.

        Args:
            groups: Not used.
            max_length: Not used.
            batch_tokens: Not used.
        """
        return 0

    def loglikelihoods(
        self,
        groups: Sequence[Sequence[Window]],
        *,
        max_length: int,
        max_shared_length: int,
        need_greedy: bool,
        run: RunContext,
    ) -> list[list[WindowScore]]:
        """Raise an error if there is a window to score. See `InferenceBackend.loglikelihoods`.

        Args:
            groups: Windows that belong together.
            max_length: Not used.
            max_shared_length: Not used.
            need_greedy: Not used.
            run: Not used.

        Returns:
            An empty list per group.

        Raises:
            TaskError: There is a window to score.
        """
        if any(groups):
            raise TaskError(
                f"{self.lm.source.name!r} is a {self.kind} model, which cannot compute log-likelihoods: expected "
                "requests that generate text"
            )
        return regroup([], groups)  # all groups are empty

    def generate(self, prompts: Sequence[Prompt], run: RunContext) -> list[GeneratedTokens]:
        """Generate one text per prompt. Each text is cut after its first end token.

        Args:
            prompts: Prompts to continue.
            run: Settings of the evaluation. The progress counts prompts.

        Returns:
            The continuations, in the order of `prompts`.

        Raises:
            TaskError: A prompt has a sampling option that denoising does not support.
        """
        texts: list[GeneratedTokens] = []
        for prompt, seed in zip(prompts, sample_seeds(prompts, run.seed), strict=True):
            self.options.denoising_for(prompt)  # raises the error for unsupported options
            texts.append(self._generate_text(prompt, replace(run, seed=seed)))
            run.progress(len(texts), len(prompts))
        return texts

    def _generate_text(self, prompt: Prompt, run: RunContext) -> GeneratedTokens:
        generate_options = {"max_new_tokens": prompt.limit}
        if self.options.denoising.steps is not None:
            generate_options["max_denoising_steps"] = self.options.denoising.steps
        input_ids = torch.tensor([list(prompt.tokens)]).to(self.lm.device)
        output = generate_blocks(self.lm.model, input_ids, run, **generate_options)
        continuation = output[0, len(prompt.tokens) :][: prompt.limit].tolist()
        return cut_at_end_token(self.lm, continuation, prompt.until)
