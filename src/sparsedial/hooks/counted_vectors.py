"""Vectors of a call of the rule that belong to real tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sparsedial.hooks.pending_counts import RuleCall

if TYPE_CHECKING:
    from sparsedial.moe.routing import Routing


def real_vectors(call: RuleCall, real: torch.Tensor | None) -> torch.Tensor | None:
    """Return a boolean tensor that is True for the vectors of real tokens, or None if all of them are counted.

    Args:
        call: Call of the rule that was not routed to stacked experts.
        real: Boolean tensor with one entry per token, or None if all tokens are counted.
    """
    if real is None or call.token_indices is None:
        return real
    return real.reshape(-1).to(call.kept.device, non_blocking=True)[call.token_indices]


def counted_pairs(routing: Routing, real: torch.Tensor | None) -> torch.Tensor:
    """Return a boolean tensor that is True for the (token, expert) pairs of real tokens.

    Args:
        routing: Routing of the tokens to stacked experts.
        real: Boolean tensor with one entry per token, or None if all tokens are counted.
    """
    is_counted = routing.weight != 0  # a pair without weight reached no expert (ZAYA's skipped tokens)
    if real is not None:
        is_counted &= real.reshape(-1).to(is_counted.device, non_blocking=True)[routing.token]
    return is_counted


def counted_vectors(call: RuleCall, real: torch.Tensor | None) -> torch.Tensor | None:
    """Return a boolean tensor with one entry per vector of a call, or None if all of them are counted.

    Args:
        call: Call of the rule.
        real: Boolean tensor with one entry per token, or None if all tokens are counted.

    Returns:
        Tensor of shape [vectors] on the device of the counts.
    """
    if call.routing is not None:
        return counted_pairs(call.routing, real)
    vectors = real_vectors(call, real)
    if vectors is None:
        return None
    return vectors.reshape(-1).to(call.kept.device, non_blocking=True)


def stack_masks(masks: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Return one row per call. If all calls belong to the same forward, return one row that is valid for all.

    Args:
        masks: One boolean tensor per call.
        device: Device of the result.
    """
    rows: dict[int, torch.Tensor] = {}
    for mask in masks:
        if id(mask) not in rows:
            rows[id(mask)] = mask.reshape(-1).to(device, non_blocking=True)
    if len(rows) == 1:
        return rows[id(masks[0])]
    return torch.stack([rows[id(mask)] for mask in masks])
