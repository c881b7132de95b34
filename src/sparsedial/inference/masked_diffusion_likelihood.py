"""Monte Carlo log-likelihoods of continuations under a masked diffusion model, as in LLaDA's evaluation.

For a continuation of T tokens, a sample masks exactly k of them and multiplies the sum of their log-probabilities by
T/k. The mean over k = 1 .. T and over all choices of k tokens is the bound of arXiv 2502.09992, equation 6. It equals
the log-likelihood if the model's conditional distributions are those of one joint distribution.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsedial.errors import SpecError
from sparsedial.inference.batching import batch_equal_lengths, values_in_key_order
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.masked_diffusion import denoise
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel, MaskedTokens
from sparsedial.inference.nonfinite_outputs import mark_nonfinite
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import DEFAULT_RUN, RunContext
from sparsedial.inference.seeds import derive_seed


@dataclass(frozen=True)
class _Sample:
    """One window with one choice of masks.

    Attributes:
        window_index: Index of the window.
        window: The window.
        mask: True for the masked tokens, shape [tokens]. Tokens of the context are never masked.
    """

    window_index: int
    window: Window
    mask: torch.Tensor


@torch.inference_mode()
def estimate_loglikelihoods(
    model: MaskedDiffusionModel,
    windows: Sequence[Window],
    *,
    samples: int = 128,
    guidance: float = 0.0,
    run: RunContext = DEFAULT_RUN,
) -> list[float]:
    """Estimate the log-likelihood of every continuation.

    The masks depend only on the seed and on the window's tokens, so they are the same for dense and sparse models and
    in all batches.

    Args:
        model: Masked diffusion model.
        windows: Continuations with their contexts. A context may be empty.
        samples: Number of samples per window. The numbers of masked tokens are spread evenly over the samples, from
            a random start (LLaDA's stratification).
        guidance: Weight of classifier-free guidance. See `DenoisingConfig`.
        run: Settings of the evaluation. The progress counts samples.

    Returns:
        One log-likelihood per window. It is NaN if the model's logits are not finite.

    Raises:
        SpecError: `samples` is below 1, or a continuation has no tokens.
    """
    if samples < 1:
        raise SpecError(f"Monte Carlo samples {samples}: expected at least 1")
    if any(len(window.continuation) == 0 for window in windows):
        raise SpecError("a continuation without tokens has no log-likelihood: expected at least one token")
    all_samples: list[_Sample] = []
    for index, window in enumerate(windows):
        all_samples += [_Sample(index, window, mask) for mask in _draw_masks(window, samples, run.seed)]

    totals = torch.zeros(len(windows), dtype=torch.float64, device=model.device)
    completed = 0
    max_tokens = run.batch_tokens // DenoisingConfig(guidance=guidance).rows_per_sequence
    for indices in batch_equal_lengths([len(sample.mask) for sample in all_samples], max_tokens):
        batch = [all_samples[index] for index in indices]
        window_indices = torch.tensor([sample.window_index for sample in batch], device=model.device)
        totals.index_add_(0, window_indices, _score_samples(model, batch, guidance, run))
        completed += len(batch)
        run.progress(completed, len(all_samples))
    return (totals / samples).tolist()


def _draw_masks(window: Window, samples: int, seed: int) -> list[torch.Tensor]:
    """Return the mask of each sample, boolean of shape [tokens]."""
    context_length = len(window.context)
    length = len(window.continuation)
    window_seed = derive_seed(seed, list(window.context), list(window.continuation))
    generator = torch.Generator().manual_seed(window_seed)
    start = int(torch.randint(length, (), generator=generator))
    masks = []
    for sample in range(samples):
        count = (start + sample * length // samples) % length + 1
        masked_tokens = torch.randperm(length, generator=generator)[:count]
        mask = torch.zeros(context_length + length, dtype=torch.bool)
        mask[context_length + masked_tokens] = True
        masks.append(mask)
    return masks


def _score_samples(
    model: MaskedDiffusionModel, batch: Sequence[_Sample], guidance: float, run: RunContext
) -> torch.Tensor:
    """Return T/k times the sum of the masked tokens' log-probabilities, float64 of shape [batch]."""
    tokens = torch.tensor([sample.window.tokens for sample in batch])
    is_masked = torch.stack([sample.mask for sample in batch])
    is_context = torch.zeros_like(is_masked)
    for row, sample in enumerate(batch):
        is_context[row, : len(sample.window.context)] = True
    masked_share = (is_masked.sum(1) / (~is_context).sum(1)).to(model.device)
    rows = is_masked.nonzero()[:, 0].to(model.device)

    tokens = tokens.to(model.device)
    is_masked = is_masked.to(model.device)
    masked_tokens = MaskedTokens(
        tokens.masked_fill(is_masked, model.mask_token), is_masked, is_context.to(model.device)
    )
    logits = model.logits(masked_tokens, phase="prefill", guidance=guidance, run=run)[is_masked].float()
    loglikelihoods = logits.gather(1, tokens[is_masked][:, None])[:, 0] - mark_nonfinite(logits.logsumexp(-1))
    sums = torch.zeros(len(tokens), dtype=torch.float64, device=model.device)
    return sums.index_add_(0, rows, loglikelihoods.double()) / masked_share


def check_greedy(
    model: MaskedDiffusionModel, windows: Sequence[Window], *, guidance: float = 0.0, run: RunContext = DEFAULT_RUN
) -> list[bool]:
    """Return whether denoising that fills in the most probable token of each step generates each continuation.

    One forward pass per token is needed. Only some tasks, such as lambada, use the result.

    Args:
        model: Masked diffusion model.
        windows: Continuations with their contexts. A context may be empty.
        guidance: Weight of classifier-free guidance. See `DenoisingConfig`.
        run: Settings of the evaluation. The progress counts windows.

    Returns:
        One value per window: True if the model generates the continuation.
    """
    config = DenoisingConfig(guidance=guidance)
    denoising_run = run.without_progress()
    is_greedy: dict[int, bool] = {}
    for (context_length, length), indices in _group_by_shape(windows).items():
        rows = max(1, run.batch_tokens // (context_length + length) // config.rows_per_sequence)
        for start in range(0, len(indices), rows):
            batch = indices[start : start + rows]
            targets = torch.tensor([windows[index].tokens for index in batch])
            result = denoise(model, targets[:, :context_length], length, config, [0] * len(batch), denoising_run)
            is_equal = (result.tokens == targets.to(model.device)).all(1)
            is_greedy.update(zip(batch, is_equal.tolist(), strict=True))
            run.progress(len(is_greedy), len(windows))
    return values_in_key_order(is_greedy)


def _group_by_shape(windows: Sequence[Window]) -> dict[tuple[int, int], list[int]]:
    """Return the windows' indices by the lengths of context and continuation, longest first."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, window in enumerate(windows):
        groups[len(window.context), len(window.continuation)].append(index)
    return dict(sorted(groups.items(), reverse=True))
