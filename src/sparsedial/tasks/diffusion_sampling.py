"""Sampling of sequences from a masked diffusion model, and look-up of the BOS token of a model."""

from __future__ import annotations

import torch

from sparsedial.errors import TaskError
from sparsedial.inference.batch_size import FittingBatch
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.masked_diffusion import DenoisingResult, denoise
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel
from sparsedial.inference.model_limits import check_token_ids, max_positions
from sparsedial.inference.run_context import Progress, RunContext, ignore_progress
from sparsedial.inference.seeds import derive_seed
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.example_blocks import ExampleBlock

MAX_SAMPLED_TOKENS = 1 << 14
"""Tokens per forward pass while sampling, if they fit into memory."""


def find_bos_token(lm: LanguageModel) -> int | None:
    """Return the BOS token id of the tokenizer, else of the configuration, or None if neither has one.

    Args:
        lm: Language model of any kind, with or without a tokenizer.

    Raises:
        TaskError: The embedding of the model has no row for the token.
    """
    bos = getattr(lm.tokenizer, "bos_token_id", None)
    if bos is None:
        bos = getattr(lm.model.config.get_text_config(), "bos_token_id", None)
    if bos is None:
        return None
    check_token_ids(lm, [[int(bos)]])
    return int(bos)


def sample_by_denoising(
    lm: LanguageModel,
    block: ExampleBlock,
    length: int,
    config: DenoisingConfig,
    seed: int,
    progress: Progress = ignore_progress,
) -> DenoisingResult:
    """Sample sequences from a masked diffusion model, after the BOS token if the model has one.

    Args:
        lm: Masked diffusion model.
        block: Indices of the sequences. Each sequence has its own seed, derived from ``seed`` and its index.
        length: Sampled tokens per sequence.
        config: Schedule and temperature of the sampling.
        seed: Random seed.
        progress: Called with the denoising steps done and in total, over all sequences.

    Returns:
        The tokens and the step in which each was filled in, shape [sequences, tokens], on the CPU.

    Raises:
        ModelError: The model is not a masked diffusion model, or has no mask token.
        TaskError: The model has fewer positions than the sequences have tokens, or no embedding of the BOS token.
        NonFiniteOutputError: The model's logits are NaN or infinite.
    """
    model = MaskedDiffusionModel.from_language_model(lm)
    bos = find_bos_token(lm)
    start = [] if bos is None else [bos]
    _check_positions(lm, length, len(start))
    steps = sum(map(len, config.schedule(length)))

    def sample(rows_per_batch: int) -> list[DenoisingResult]:
        results = []
        for first in range(block.first, block.end, rows_per_batch):
            rows = min(rows_per_batch, block.end - first)
            prompts = torch.tensor([start] * rows, dtype=torch.int64).view(rows, len(start))
            seeds = [derive_seed(seed, first + row) for row in range(rows)]
            previous = (first - block.first) * steps
            run = RunContext(progress=_progress_in_rows(progress, previous, rows, len(block) * steps))
            results.append(denoise(model, prompts, length, config, seeds, run))
        return results

    batch = FittingBatch(max(1, min(len(block), MAX_SAMPLED_TOKENS // (length + len(start)))))
    results = batch.run(sample)
    return DenoisingResult(
        torch.cat([result.tokens for result in results]).cpu(),
        torch.cat([result.step for result in results]).cpu(),
    )


def _check_positions(lm: LanguageModel, length: int, start_length: int) -> None:
    """Raise an error if a sequence with its start tokens has more tokens than the model has positions."""
    limit = max_positions(lm.model)
    if limit is not None and limit < length + start_length:
        raise TaskError(
            f"length {length} and {start_length} start tokens exceed the model's {limit} positions: lower the length"
        )


def _progress_in_rows(progress: Progress, previous: int, rows: int, total: int) -> Progress:
    """Return a callback that converts progress in steps of a batch into progress in steps of single sequences."""

    def report(completed_steps: int, _: int) -> None:
        progress(previous + rows * completed_steps, total)

    return report
