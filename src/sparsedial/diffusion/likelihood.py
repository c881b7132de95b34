"""Log-likelihoods of continuations under a masked diffusion model, by Monte Carlo as LLaDA's evaluation does it.

For a continuation of T tokens a sample masks exactly k of them, and counts T/k times the log-probabilities of those;
the mean over k = 1 .. T and over all masks of k is the bound of arXiv 2502.09992, equation 6. It equals the
log-likelihood where the model's conditional distributions are those of one joint distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from sparsedial.diffusion.sampler import Denoising, fill_in, guided, of_one_length, seed_of
from sparsedial.errors import SpecError
from sparsedial.sparsify import Dial

Pair = tuple[Sequence[int], Sequence[int]]
"""A context and its continuation, as token ids; the context may be empty."""


@torch.inference_mode()
def monte_carlo(
    model: Any,
    pairs: Sequence[Pair],
    mask_token: int,
    *,
    samples: int = 128,
    seed: int = 0,
    guidance: float = 0.0,
    batch_tokens: int = 4096,
    dial: Dial | None = None,
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> list[float]:
    """The estimated log-likelihood of every continuation.

    The masks depend on ``seed`` and the pair's tokens alone: dense and sparse models, in any batches, see the same.

    Args:
        model: called with ``input_ids``, gives ``logits`` for the tokens at their own places.
        samples: per pair; the counts k are spread evenly over them, from a random start (LLaDA's stratification).
        guidance: of `Denoising`, away from the model without the context.
        batch_tokens: per forward. dial: told that this is prefill, and which tokens are masked.
        progress: told samples done.

    Raises:
        SpecError: no samples, or a continuation without tokens.
    """
    if samples < 1:
        raise SpecError(f"Monte-Carlo samples {samples}: expected at least 1")
    if any(not len(continuation) for _, continuation in pairs):
        raise SpecError("a continuation without tokens has no likelihood: expected at least one")
    device = next(model.parameters()).device
    rows = [(pair, mask) for pair, (c, t) in enumerate(pairs) for mask in _masks(c, t, samples, seed)]
    totals = torch.zeros(len(pairs), dtype=torch.float64, device=device)
    done = 0
    for batch in of_one_length([len(mask) for _, mask in rows], batch_tokens // (2 if guidance else 1)):
        index = torch.tensor([rows[i][0] for i in batch])
        masked = torch.stack([rows[i][1] for i in batch])
        tokens = torch.tensor([[*pairs[rows[i][0]][0], *pairs[rows[i][0]][1]] for i in batch])
        given = torch.arange(tokens.shape[1]) < torch.tensor([len(pairs[p][0]) for p in index])[:, None]
        totals.index_add_(0, index.to(device), _score(model, tokens, masked, given, mask_token, guidance, dial))
        done += len(batch)
        progress(done, len(rows))
    return (totals / samples).tolist()


def _masks(context: Sequence[int], continuation: Sequence[int], samples: int, seed: int) -> list[torch.Tensor]:
    """Which tokens each sample masks, ``[T]`` of the whole; none of the context."""
    length = len(continuation)
    generator = torch.Generator().manual_seed(seed_of(seed, list(context), list(continuation)))
    start = int(torch.randint(length, (), generator=generator))
    masks = []
    for sample in range(samples):
        count = (start + sample * length // samples) % length + 1
        chosen = torch.randperm(length, generator=generator)[:count]
        mask = torch.zeros(len(context) + length, dtype=torch.bool)
        mask[len(context) + chosen] = True
        masks.append(mask)
    return masks


def _score(
    model: Any,
    tokens: torch.Tensor,
    masked: torch.Tensor,
    given: torch.Tensor,
    mask_token: int,
    guidance: float,
    dial: Dial | None,
) -> torch.Tensor:
    """One forward: ``[B]`` in float64, T/k times the sum of the masked tokens' log-probabilities."""
    device = next(model.parameters()).device
    share = masked.sum(1) / (~given).sum(1)
    row = masked.nonzero()[:, 0].to(device)
    tokens, masked, given, share = (t.to(device) for t in (tokens, masked, given, share))
    noisy = tokens.masked_fill(masked, mask_token)
    logits = guided(model, noisy, masked, given, mask_token, guidance, dial, "prefill")[masked].float()
    likely = logits.gather(1, tokens[masked][:, None])[:, 0] - logits.logsumexp(-1)
    sums = torch.zeros(len(tokens), dtype=torch.float64, device=device).index_add_(0, row, likely.double())
    return sums / share


def greedy(
    model: Any,
    pairs: Sequence[Pair],
    mask_token: int,
    *,
    guidance: float = 0.0,
    batch_tokens: int = 4096,
    dial: Dial | None = None,
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> list[bool]:
    """Whether every continuation is what the model fills in itself, one token a step, the surest first.

    It costs a forward per token; only tasks that ask for it (lambada) need it.
    """
    answers = [False] * len(pairs)
    done = 0
    how = Denoising(guidance=guidance)
    # Alike in both lengths: what is filled in begins at one place.
    shapes = sorted({(len(c), len(t)) for c, t in pairs}, reverse=True)
    for context, length in shapes:
        alike = [i for i, (c, t) in enumerate(pairs) if (len(c), len(t)) == (context, length)]
        at_once = max(1, batch_tokens // (context + length) // (2 if guidance else 1))
        for batch in (alike[i : i + at_once] for i in range(0, len(alike), at_once)):
            prompts = torch.tensor([list(pairs[i][0]) for i in batch], dtype=torch.int64).view(len(batch), context)
            made = fill_in(model, prompts, length, mask_token, how, [0] * len(batch), dial=dial).tokens[:, context:]
            wanted = torch.tensor([list(pairs[i][1]) for i in batch], device=made.device)
            for i, same in zip(batch, (made == wanted).all(1).tolist(), strict=True):
                answers[i] = same
            done += len(batch)
            progress(done, len(pairs))
    return answers
