"""Text generation with causal models."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from sparsedial.errors import NonFiniteOutputError
from sparsedial.inference.batching import values_in_key_order
from sparsedial.inference.generation import GeneratedTokens, Prompt, sample_seeds
from sparsedial.inference.generation_batches import continue_batch, generate_in_batches
from sparsedial.inference.generation_job import GenerationJob, GenerationProgress
from sparsedial.inference.nonfinite_outputs import describe_nonfinite_logits
from sparsedial.inference.run_context import DEFAULT_RUN, RunContext
from sparsedial.inference.token_choice import DecodingSettings, read_decoding_settings

SWITCH = "SPARSEDIAL_CONTINUOUS_BATCHING"
"""Environment variable. 0 turns continuous batching off."""


@torch.inference_mode()
def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], run: RunContext = DEFAULT_RUN
) -> list[GeneratedTokens]:
    """Continue every prompt as the model's own `generate` with its generation configuration would.

    A text that has ended makes place for the next prompt (`continuous_batching`). A model for which this is not
    possible, or a decoding option that it does not know, causes a warning, and the prompts are continued with
    `generate` (`generation_batches`). So are those of models on a GPU whose steps cannot be captured in CUDA graphs. If
    the options enable sampling, every text has random numbers of its own, so the batches do not change the texts.

    Args:
        model: Causal language model.
        tokenizer: Tokenizer of the model.
        prompts: Prompts to continue.
        run: Settings of the evaluation. The progress counts prompts.

    Returns:
        The continuations, in the order of `prompts`.

    Raises:
        TaskError: The options ask for beam search or other decoding methods than greedy decoding and sampling, or
            `generate` rejects them.
        NonFiniteOutputError: A logit is NaN or infinite.
    """
    seeds = sample_seeds(prompts, run.seed)
    progress = GenerationProgress(run, len(prompts))
    texts: dict[int, GeneratedTokens] = {}
    for indices in _group_by_decoding(prompts):
        group = [prompts[index] for index in indices]
        group_seeds = [seeds[index] for index in indices]
        settings = read_decoding_settings(model, group[0].options, group[0].tokens)
        job = GenerationJob(model, tokenizer, settings, run, progress)
        for position, text in _generate_group(job, group, group_seeds).items():
            texts[indices[position]] = text
    return values_in_key_order(texts)


def _group_by_decoding(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the indices of the prompts with equal decoding keys."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        groups[prompt.decoding_key].append(index)
    return list(groups.values())


def _generate_group(job: GenerationJob, prompts: Sequence[Prompt], seeds: Sequence[int]) -> dict[int, GeneratedTokens]:
    """Return the continuation of each prompt by its index. The prompts have equal decoding keys."""
    # Imported here, because these modules import transformers.
    from sparsedial.inference.continuous_batching import NonFiniteTextError, generate_continuously
    from sparsedial.inference.decode_graphs import can_capture
    from sparsedial.inference.slot_decoding_check import check_slot_support

    if os.environ.get(SWITCH) == "0":
        return generate_in_batches(job, prompts, seeds)
    # On a GPU, continuous batching without CUDA graphs takes four times as long as `generate` (docs/performance.md).
    if job.model.device.type == "cuda" and not can_capture(job.model, job.run):
        return generate_in_batches(job, prompts, seeds)
    support = check_slot_support(job.model, max(prompt.max_length for prompt in prompts))
    obstacle = support.obstacle or _describe_unsupported(job.settings)
    if obstacle is not None:
        warnings.warn(f"texts are generated in fixed batches, which is slower: {obstacle}", stacklevel=2)
        return generate_in_batches(job, prompts, seeds)
    try:
        return generate_continuously(job, prompts, seeds, support.bytes_per_token)
    except NonFiniteTextError as error:
        index = error.index
    repeat = partial(continue_batch, job, [prompts[index]], [seeds[index]])
    raise NonFiniteOutputError(describe_nonfinite_logits(job.model, repeat))


def _describe_unsupported(settings: DecodingSettings) -> str | None:
    """Return why some settings of `generate` have to be left to it, or None."""
    if not settings.unsupported:
        return None
    return f"the generation options need {', '.join(settings.unsupported)}"
