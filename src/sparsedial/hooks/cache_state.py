"""Whether a key-value cache or a recurrent state holds earlier tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsedial.errors import SpecError


@dataclass(frozen=True, eq=False)
class CacheState:
    """State of a key-value cache or of a recurrent state.

    Values that are stored on another device than the CPU are not copied to the host.

    Attributes:
        is_filled: Whether it holds tokens. A bool, or a boolean tensor without dimensions.
        length: Number of tokens that it holds. An int, an integer tensor without dimensions, or None if it is unknown.
    """

    is_filled: bool | torch.Tensor
    length: int | torch.Tensor | None = None


def read_cache(cache: Any) -> CacheState:
    """Return what a cache says about the tokens that it holds.

    Args:
        cache: Value of a model's cache argument: a cache of transformers, a tensor, or a tuple or list of tensors.

    Returns:
        The state of the cache.

    Raises:
        SpecError: The cache does not say whether it holds tokens.
    """
    if isinstance(cache, torch.Tensor):
        return CacheState(is_filled=True)
    if isinstance(cache, (tuple, list)):  # plain keys and values, or plain recurrent states
        return CacheState(is_filled=any(part is not None for part in cache))
    length = _read_length(cache)
    if length is not None:
        return CacheState(is_filled=length > 0, length=length)
    has_state = _read_recurrent_state(cache)
    if has_state is not None:
        return CacheState(is_filled=has_state)
    raise SpecError(
        f"The cache is a {type(cache).__name__}, which does not say whether it holds tokens: expected one with "
        'get_seq_length(). State the phase with sparsifier.observe(phase="prefill") or (phase="generation").'
    )


def _read_length(cache: Any) -> int | torch.Tensor | None:
    """Return the number of tokens in a cache, or None if it does not count them."""
    length = None
    if hasattr(cache, "get_seq_length"):
        try:
            length = cache.get_seq_length()
        except (AttributeError, NotImplementedError, TypeError, ValueError):  # a cache without an attention layer
            return None
    for name in ("seqlen_offset", "_seen_tokens"):  # xLSTM, Reformer
        if length is None:
            length = getattr(cache, name, None)
    if isinstance(length, torch.Tensor):
        length = length.detach().reshape(-1)[:1].sum()  # a copy: the cache changes its own tensor in place
        is_readable = length.device.type == "cpu" and not torch.compiler.is_compiling()
        return int(length) if is_readable else length
    return length if isinstance(length, int) else None


def _read_recurrent_state(cache: Any) -> bool | None:
    """Return whether a recurrent state holds earlier tokens, or None if it does not say so."""
    has_state = getattr(cache, "has_previous_state", None)
    if isinstance(has_state, bool) or has_state is None:
        return has_state
    try:
        return bool(has_state())
    except (AttributeError, TypeError, ValueError):
        return None
