"""Text generation with a masked diffusion model: masks are filled in step by step, as in LLaDA (arXiv 2502.09992).

All rows of a batch have the same length, because padding needs an attention mask, which LLaDA's code does not accept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from sparsedial.errors import NonFiniteOutputError
from sparsedial.inference.denoising_config import RANDOM, DenoisingConfig
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel, MaskedTokens
from sparsedial.inference.nonfinite_outputs import describe_nonfinite_logits
from sparsedial.inference.run_context import DEFAULT_RUN, RunContext


@dataclass(frozen=True)
class DenoisingResult:
    """Result of `denoise`: sequences without masks.

    Attributes:
        tokens: Token IDs of prompts and continuations, int64 of shape [batch, tokens].
        step: Denoising step in which each token was filled in, int64 of shape [batch, tokens]. -1 for the prompt.
    """

    tokens: torch.Tensor
    step: torch.Tensor


@torch.inference_mode()
def denoise(
    model: MaskedDiffusionModel,
    prompts: torch.Tensor,
    length: int,
    config: DenoisingConfig,
    seeds: Sequence[int],
    run: RunContext = DEFAULT_RUN,
) -> DenoisingResult:
    """Append masks to every prompt and fill them in.

    Each step predicts every mask of the current block and keeps some of the predictions. The mask token itself is
    never predicted. Sampling selects the arg max of logits - T log(-log u) (Gumbel noise), where T is the
    temperature and u is uniform in (0, 1). It is computed in float64, because low precision would bias it
    (arXiv 2409.02908). The random numbers of a row depend only on its seed and are drawn on the CPU, so they are the
    same on every device and in every batch.

    Args:
        model: Masked diffusion model.
        prompts: Token IDs of shape [batch, prompt tokens]. The prompts may be empty.
        length: Number of masks appended to each prompt.
        config: Settings of the denoising process.
        seeds: Random seed of each row.
        run: Settings of the evaluation. The progress counts denoising steps. Its seed is not used.

    Returns:
        The sequences, and the step in which each token was filled in.

    Raises:
        SpecError: The settings do not fit the length. See `DenoisingConfig.schedule`.
        NonFiniteOutputError: A logit is NaN or infinite.
    """
    state = _fill_in_masks(model, prompts, length, config, seeds, run)
    row = state.broken_row()
    if row is not None:
        alone = slice(row, row + 1)
        repeat = partial(_fill_in_masks, model, prompts[alone], length, config, seeds[alone], run.without_progress())
        raise NonFiniteOutputError(describe_nonfinite_logits(model.model, repeat))
    return state.result()


def _fill_in_masks(
    model: MaskedDiffusionModel,
    prompts: torch.Tensor,
    length: int,
    config: DenoisingConfig,
    seeds: Sequence[int],
    run: RunContext,
) -> _DenoisingState:
    """Run all denoising steps, without checking the logits. The parameters are those of `denoise`."""
    schedule = config.schedule(length)
    state = _DenoisingState(model, prompts, length, config, seeds)
    steps = sum(map(len, schedule))
    step = 0
    for block_index, block_schedule in enumerate(schedule):
        state.begin_block(block_index, sum(block_schedule))
        for count in block_schedule:
            state.fill_in(count, step, run)
            step += 1
            run.progress(step, steps)
    return state


class _DenoisingState:
    """The sequences of one batch while their masks are filled in.

    Args:
        model: Masked diffusion model.
        prompts: Token IDs of shape [batch, prompt tokens].
        length: Number of masks appended to each prompt.
        config: Settings of the denoising process.
        seeds: Random seed of each row.
    """

    def __init__(
        self,
        model: MaskedDiffusionModel,
        prompts: torch.Tensor,
        length: int,
        config: DenoisingConfig,
        seeds: Sequence[int],
    ) -> None:
        device = model.device
        start = prompts.shape[1]
        masks = prompts.new_full((len(prompts), length), model.mask_token)
        self._model = model
        self._config = config
        self._prompt_length = start
        self._ids = torch.cat([prompts, masks], 1).to(device)
        self._is_prompt = torch.arange(start + length, device=device).expand_as(self._ids) < start
        self._is_masked = ~self._is_prompt
        self._filled_at = torch.full_like(self._ids, -1)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._is_broken = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self._block = slice(0, 0)
        self._remaining_masks = 0

    def begin_block(self, index: int, length: int) -> None:
        """Set the block of masks that the next steps fill in."""
        start = self._prompt_length + index * length
        self._block = slice(start, start + length)
        self._remaining_masks = length

    def fill_in(self, count: int, step: int, run: RunContext) -> None:
        """Predict the masks of the block, and keep `count` of the predictions."""
        tokens = MaskedTokens(self._ids, self._is_masked, self._is_prompt)
        logits = self._model.logits(tokens, phase="generation", step=step, guidance=self._config.guidance, run=run)
        candidates = self._candidates(count)
        predictions, confidence = self._predict(logits[:, self._block], candidates)
        self._is_broken |= confidence.isnan().any(1)

        most_confident = _largest(confidence, count)
        positions = candidates.gather(1, most_confident)
        self._ids[:, self._block].scatter_(1, positions, predictions.gather(1, most_confident))
        self._filled_at[:, self._block].scatter_(1, positions, step)
        self._is_masked = self._is_masked.scatter(1, self._block.start + positions, False)
        self._remaining_masks -= count

    def broken_row(self) -> int | None:
        """Return the index of the first row with logits that are NaN or infinite, or None if there is none."""
        rows = self._is_broken.nonzero()
        return int(rows[0]) if len(rows) else None

    def result(self) -> DenoisingResult:
        """Return the sequences."""
        return DenoisingResult(self._ids, self._filled_at)

    def _candidates(self, count: int) -> torch.Tensor:
        """Return the positions in the block that this step may fill in, shape [batch, candidates]."""
        is_masked = self._is_masked[:, self._block]
        if self._config.remasking == RANDOM:  # The kept positions do not depend on the predictions.
            priority = _uniform(self._generators, is_masked.shape[1:]).to(is_masked.device)
            return _largest(priority.masked_fill(~is_masked, -1.0), count)
        return _largest(is_masked.byte(), self._remaining_masks)

    def _predict(self, logits: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a token for each position, and its log-probability at temperature 1 in float64.

        The log-probability is NaN if a logit is NaN or plus infinity.
        """
        logits = logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[-1])).double()
        logits[..., self._model.mask_token] = -torch.inf
        perturbed = logits
        if self._config.temperature:
            uniform = _uniform(self._generators, logits.shape[1:]).to(logits.device)
            perturbed = logits - self._config.temperature * uniform.log().neg().log()
        predictions = perturbed.argmax(-1)
        return predictions, logits.gather(-1, predictions[..., None])[..., 0] - logits.logsumexp(-1)


def _largest(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices of the largest keys of each row, shape [batch, count].

    Among equal keys, the leftmost comes first on every device.
    """
    return keys.sort(dim=-1, descending=True, stable=True).indices[:, :count]


def _uniform(generators: Sequence[torch.Generator], shape: Sequence[int]) -> torch.Tensor:
    """Return random numbers in (0, 1), float64 of shape [generators, *shape]."""
    smallest = torch.finfo(torch.float64).tiny
    rows = [torch.rand(*shape, generator=generator, dtype=torch.float64) for generator in generators]
    return torch.stack(rows).clamp_(min=smallest)
