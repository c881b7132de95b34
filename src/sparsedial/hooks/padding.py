"""Real tokens of a forward pass, read from its attention mask."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sparsedial.hooks.cache_state import CacheState
from sparsedial.hooks.forward_arguments import PackedSequences, TokenInput


class UnreadableMaskError(Exception):
    """A mask does not say which tokens are padding. The message describes the mask, without a final full stop."""


def read_real_tokens(tokens: TokenInput, cache: CacheState | None) -> torch.Tensor | None:
    """Return the real tokens of a forward pass.

    A mask may have more columns than the forward has tokens, if the columns are those of a cache.

    Args:
        tokens: The tokens and their mask.
        cache: State of the cache, or None if there is no cache.

    Returns:
        Boolean tensor of shape [batch, tokens], False for padding. None if all tokens are real.

    Raises:
        UnreadableMaskError: The mask has a format or a size that does not describe these tokens.
    """
    mask = tokens.mask
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor) and isinstance(mask, Mapping):  # one mask per kind of attention
        mask = mask.get("full_attention", next(iter(mask.values()), None))
        if mask is None:
            return None
    if not isinstance(mask, torch.Tensor):
        raise UnreadableMaskError(f"the attention mask is a {type(mask).__name__}")
    rows, count = tokens.shape
    if mask.dim() == 1 and rows == 1:
        mask = mask[None]
    if mask.dim() == 2 and mask.shape[0] in (1, rows) and mask.shape[1] >= count:
        columns = _select_columns(mask, count, cache)
        real = columns == 0 if tokens.is_padding_mask else columns != 0
        return real if mask.shape[0] == rows else real.expand(rows, count)
    if mask.dim() == 3:
        mask = mask[:, None]
    if mask.dim() == 4 and mask.shape[0] in (1, rows) and mask.shape[2] == count and mask.shape[3] >= count:
        # The mask is boolean, or is added to the attention scores: then 0 means that a token is attended to. A real
        # token attends to itself.
        attends = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
        return _select_own_column(attends, cache).expand(rows, count)
    raise UnreadableMaskError(
        f"the attention mask has the shape {list(mask.shape)}, and the input has {rows} x {count} tokens"
    )


def read_packed_tokens(packed: PackedSequences, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the real tokens of sequences that are concatenated to one row, and the tokens that are being generated.

    A sequence is generating if it has one new token and attends to earlier ones.

    Args:
        packed: The sequences.
        count: Number of tokens of the row. Those after the last sequence are padding.

    Returns:
        Two boolean tensors of shape [1, count].
    """
    position = torch.arange(count, device=packed.query_ends.device)
    real = position < packed.query_ends[-1]
    sequence = torch.searchsorted(packed.query_ends[1:].contiguous(), position, right=True)
    sequence = sequence.clamp(max=len(packed.query_ends) - 2)
    queries = packed.query_ends.diff()[sequence]
    keys = packed.key_ends.diff().to(queries.device)[sequence]
    return real[None], (real & (queries == 1) & (keys > 1))[None]


def _select_columns(mask: torch.Tensor, count: int, cache: CacheState | None) -> torch.Tensor:
    """Return the columns of a 2-D mask that belong to the new tokens."""
    start = _first_column(count, mask.shape[1], cache)
    if isinstance(start, torch.Tensor):
        return mask.index_select(1, start.to(mask.device) + torch.arange(count, device=mask.device))
    return mask[:, start : start + count]


def _select_own_column(attends: torch.Tensor, cache: CacheState | None) -> torch.Tensor:
    """Return whether each new token attends to itself, from a mask of shape [batch, tokens, columns]."""
    rows, count, columns = attends.shape
    start = _first_column(count, columns, cache)
    if isinstance(start, torch.Tensor):
        own = start.to(attends.device) + torch.arange(count, device=attends.device)
        return attends.gather(2, own.expand(rows, count)[..., None]).squeeze(2)
    return attends.diagonal(offset=start, dim1=1, dim2=2)


def _first_column(count: int, columns: int, cache: CacheState | None) -> int | torch.Tensor:
    """Return the column of a mask that belongs to the first new token.

    The columns belong to the tokens of the cache and to the new tokens, in order. A mask that was made for a static
    cache has more columns, for tokens that are yet to come.
    """
    extra = columns - count
    if extra == 0:
        return 0
    if cache is None:
        raise UnreadableMaskError(
            f"the attention mask has {columns} columns for {count} tokens, and no cache holds the other tokens"
        )
    if cache.length is None:
        return extra
    if isinstance(cache.length, torch.Tensor):
        return cache.length.clamp(max=extra)
    return min(cache.length, extra)
