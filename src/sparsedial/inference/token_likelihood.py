"""Negative log-likelihoods of reference tokens, from the logits that a forward pass has computed anyway."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from sparsedial.inference.logit_budget import LOGITS_PER_CHUNK

LOGITS_IN_CACHE = 1 << 18
"""Number of logits that are reduced at once on a CPU, so that they stay in its cache: 1 MiB."""


def negative_log_likelihoods(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the negative logarithm of the probability of one token per position, in nats.

    Args:
        logits: Logits, shape [rows, tokens, vocabulary].
        targets: Token IDs, int64 of shape [rows, tokens], on any device.

    Returns:
        Float32 of shape [rows, tokens], on the device of the logits.

    Example:
        >>> negative_log_likelihoods(torch.zeros(1, 2, 4), torch.tensor([[0, 3]]))
        tensor([[1.3863, 1.3863]])
    """
    rows = logits.flatten(0, -2)
    wanted = targets.to(logits.device).flatten()
    if logits.device.type == "cpu":
        parts = _in_cache(rows, wanted)
    else:
        positions = max(1, LOGITS_PER_CHUNK // logits.shape[-1])
        parts = []
        for chunk, tokens in zip(rows.split(positions), wanted.split(positions), strict=True):
            parts.append(cross_entropy(chunk.float(), tokens, reduction="none"))
    return torch.cat(parts).unflatten(0, targets.shape)


def _in_cache(logits: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    """Return the results for a few positions after the other.

    The intermediate results are written to the same memory, because new memory of this size costs more than the sums.

    Args:
        logits: Logits, shape [positions, vocabulary].
        targets: Token IDs, shape [positions].
    """
    vocabulary = logits.shape[-1]
    positions = max(1, LOGITS_IN_CACHE // vocabulary)
    inputs = torch.empty(positions, vocabulary)
    outputs = torch.empty(positions, vocabulary)
    parts = []
    for chunk, tokens in zip(logits.split(positions), targets.split(positions), strict=True):
        wide = chunk
        if chunk.dtype != torch.float32:
            wide = inputs[: len(chunk)].copy_(chunk)
        log_probabilities = outputs[: len(chunk)]
        torch.ops.aten._log_softmax.out(wide, -1, False, out=log_probabilities)
        parts.append(-log_probabilities.gather(-1, tokens[:, None])[:, 0])
    return parts


def sum_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum of `negative_log_likelihoods` of each row, float64 of shape [rows], on the CPU.

    Args:
        logits: Logits, shape [rows, tokens, vocabulary].
        targets: Token IDs, int64 of shape [rows, tokens], on any device.
    """
    return negative_log_likelihoods(logits, targets).double().sum(1).cpu()
