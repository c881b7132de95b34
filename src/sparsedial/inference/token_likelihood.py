"""Negative log-likelihoods of reference tokens, from the logits that a forward pass has computed anyway."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sparsedial.inference.logit_budget import LOGITS_PER_CHUNK

LOGITS_IN_CACHE = 1 << 18
"""Number of logits that are reduced at once on a CPU, so that they stay in its cache: 1 MiB."""


def positions_in_cache(vocabulary: int) -> int:
    """Return the number of positions whose logits are reduced at once on a CPU, at least 1.

    Args:
        vocabulary: Number of logits of one position.
    """
    return max(1, LOGITS_IN_CACHE // vocabulary)


def iterate_log_probabilities(logits: torch.Tensor, temperature: float = 1.0) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the logarithms of the probabilities of all tokens, for a few positions after the other.

    On a CPU, the results are written to the same memory, because new memory of this size costs more than the sums. Each
    one is valid until the next one is requested.

    Args:
        logits: Logits, shape [positions, vocabulary].
        temperature: Divisor of the logits. Defaults to 1.

    Yields:
        The positions, and their log-probabilities, float32 of shape [positions in the slice, vocabulary].

    Example:
        >>> for positions, values in iterate_log_probabilities(torch.zeros(2, 4)):
        ...     print(positions, values.exp())
        slice(0, 2, None) tensor([[0.2500, 0.2500, 0.2500, 0.2500],
                [0.2500, 0.2500, 0.2500, 0.2500]])
    """
    count, vocabulary = logits.shape
    is_on_cpu = logits.device.type == "cpu"
    step = positions_in_cache(vocabulary) if is_on_cpu else max(1, LOGITS_PER_CHUNK // vocabulary)
    outputs = torch.empty(min(step, count), vocabulary) if is_on_cpu else None
    inputs = torch.empty_like(outputs) if outputs is not None and logits.dtype != torch.float32 else None
    for first in range(0, count, step):
        positions = slice(first, min(first + step, count))
        chunk = logits[positions]
        wide = chunk.float() if inputs is None else inputs[: len(chunk)].copy_(chunk)
        if temperature != 1:
            wide = wide / temperature
        if outputs is None:
            yield positions, wide.log_softmax(-1)
        else:
            yield positions, torch.ops.aten._log_softmax.out(wide, -1, False, out=outputs[: len(chunk)])


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
    wanted = targets.to(logits.device).flatten()[:, None]
    parts = []
    for positions, log_probabilities in iterate_log_probabilities(logits.flatten(0, -2)):
        parts.append(-log_probabilities.gather(-1, wanted[positions])[:, 0])
    return torch.cat(parts).unflatten(0, targets.shape)


def sum_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the sum of `negative_log_likelihoods` of each row, float64 of shape [rows], on the CPU.

    Args:
        logits: Logits, shape [rows, tokens, vocabulary].
        targets: Token IDs, int64 of shape [rows, tokens], on any device.
    """
    return negative_log_likelihoods(logits, targets).double().sum(1).cpu()
