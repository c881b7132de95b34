"""Inference backend for masked diffusion models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch

from sparsedial.inference.backend import WindowScore
from sparsedial.inference.batching import regroup, values_in_key_order
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.diffusion_options import DEFAULT_DIFFUSION_OPTIONS, DiffusionOptions
from sparsedial.inference.generation import GeneratedTokens, Prompt, cut_at_end_token, sample_seeds
from sparsedial.inference.masked_diffusion import denoise
from sparsedial.inference.masked_diffusion_likelihood import check_greedy, estimate_loglikelihoods
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import RunContext
from sparsedial.models.kind import MASKED_DIFFUSION
from sparsedial.models.loading import LanguageModel


@dataclass(frozen=True)
class _GenerationShape:
    """Properties that are equal for all prompts that are denoised in one batch."""

    config: DenoisingConfig
    prompt_length: int
    limit: int

    @property
    def length(self) -> int:
        """Number of tokens of prompt and continuation."""
        return self.prompt_length + self.limit


class MaskedDiffusionBackend:
    """Inference backend that computes Monte Carlo log-likelihoods and generates text with a masked diffusion model.

    Args:
        lm: The model and its tokenizer.
        options: Settings of log-likelihoods and generation.

    Attributes:
        lm: The model and its tokenizer.
        options: Settings of log-likelihoods and generation.

    Raises:
        ModelError: The model is of another kind, or its mask token is not known.
    """

    kind: ClassVar[str] = MASKED_DIFFUSION

    def __init__(self, lm: LanguageModel, options: DiffusionOptions = DEFAULT_DIFFUSION_OPTIONS) -> None:
        self.lm = lm
        self.options = options
        self._model = MaskedDiffusionModel.from_language_model(lm)

    def check_requests(self, task_name: str, *, needs_loglikelihoods: bool, generation_lengths: Iterable[int]) -> None:
        """Raise an error if the denoising schedule does not fit a length. See `InferenceBackend.check_requests`.

        Args:
            task_name: Name of the task.
            needs_loglikelihoods: True if the task asks for log-likelihoods.
            generation_lengths: Maximum number of generated tokens of each request that asks for a text.

        Raises:
            SpecError: The schedule does not fit one of the lengths. See `DenoisingConfig.schedule`.
        """
        for length in sorted(set(generation_lengths)):
            self.options.denoising.schedule(length)

    def max_shared_length(self, groups: Sequence[Sequence[Window]], *, max_length: int, batch_tokens: int) -> int:
        """Return 0: every token attends to all others, so no prefix can be shared.

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
        """Return the score of every window. See `InferenceBackend.loglikelihoods`.

        Args:
            groups: Windows that belong together.
            max_length: Maximum number of tokens that the model reads. Longer windows are cut on the left.
            max_shared_length: Not used.
            need_greedy: True if `is_greedy` is computed, which costs one forward pass per token. If False, it is
                False for all windows, as in LLaDA's evaluation.
            run: Settings of the evaluation.

        Returns:
            The scores, in the order of `groups`.
        """
        windows = [_cut_context(window, max_length) for window in chain.from_iterable(groups)]
        guidance = self.options.denoising.guidance
        samples = self.options.mc_samples
        # The progress counts one unit for each sample, and one for each window whose `is_greedy` is computed.
        sampling_units = len(windows) * samples
        total_units = sampling_units + len(windows) if need_greedy else sampling_units
        loglikelihoods = estimate_loglikelihoods(
            self._model, windows, samples=samples, guidance=guidance, run=run.part(0, total_units)
        )
        is_greedy = [False] * len(windows)
        if need_greedy:
            is_greedy = check_greedy(self._model, windows, guidance=guidance, run=run.part(sampling_units, total_units))
        return regroup(map(WindowScore, loglikelihoods, is_greedy), groups)

    def generate(self, prompts: Sequence[Prompt], run: RunContext) -> list[GeneratedTokens]:
        """Append masks to every prompt and fill them in. Each text is cut after its first end token.

        Args:
            prompts: Prompts to continue.
            run: Settings of the evaluation. The progress counts prompts.

        Returns:
            The continuations, in the order of `prompts`.

        Raises:
            TaskError: A prompt has a sampling option that denoising does not support.
            NonFiniteOutputError: A logit is NaN or infinite.
            SpecError: The denoising schedule does not fit a prompt's limit.
        """
        seeds = sample_seeds(prompts, run.seed)
        texts: dict[int, GeneratedTokens] = {}
        for shape, indices in self._group_by_shape(prompts).items():
            rows = max(1, run.batch_tokens // shape.length // shape.config.rows_per_sequence)
            for start in range(0, len(indices), rows):
                batch_indices = indices[start : start + rows]
                batch = [prompts[index] for index in batch_indices]
                batch_seeds = [seeds[index] for index in batch_indices]
                batch_texts = self._denoise_batch(batch, batch_seeds, shape, run)
                texts.update(zip(batch_indices, batch_texts, strict=True))
                run.progress(len(texts), len(prompts))
        return values_in_key_order(texts)

    def _denoise_batch(
        self, batch: Sequence[Prompt], seeds: Sequence[int], shape: _GenerationShape, run: RunContext
    ) -> list[GeneratedTokens]:
        """Return the continuations of prompts of one shape."""
        prompts = torch.tensor([list(prompt.tokens) for prompt in batch])
        result = denoise(self._model, prompts, shape.limit, shape.config, seeds, run.without_progress())
        continuations = result.tokens[:, shape.prompt_length :].tolist()
        texts = []
        for prompt, continuation in zip(batch, continuations, strict=True):
            texts.append(cut_at_end_token(self.lm, continuation, prompt.until))
        return texts

    def _group_by_shape(self, prompts: Sequence[Prompt]) -> dict[_GenerationShape, list[int]]:
        """Return the prompts' indices by shape, longest first."""
        groups: dict[_GenerationShape, list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            shape = _GenerationShape(self.options.denoising_for(prompt), len(prompt.tokens), prompt.limit)
            groups[shape].append(index)
        return dict(sorted(groups.items(), key=lambda item: -item[0].length))


def _cut_context(window: Window, max_length: int) -> Window:
    """Return a window whose context is cut on the left, so that it has at most `max_length` tokens."""
    excess = max(0, len(window.context) + len(window.continuation) - max_length)
    return Window(list(window.context)[excess:], window.continuation)
