"""The definition, by sorting in float64: slow, short, and what every fast backend is held to."""

from __future__ import annotations

import math

import torch


def select(
    x: torch.Tensor,
    rule: str,
    value: float,
    kept: torch.Tensor | None = None,  # room for the counts, which fast backends use
    again: bool = False,  # vectors like these come again and again: a search may begin where the last one ended
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a rule to each vector of ``x`` (its last dimension).

    Args:
        x: any float tensor ``[..., D]``.
        rule: ``top_p``, ``top_k`` or ``max_p`` (see `sparsedial.rules`).
        value: the dial, in [0, 1].

    Returns:
        ``y [..., D]``: ``x`` with the dropped entries set to zero (a new, contiguous tensor), and
        ``kept [...]`` int32: how many entries stay. A vector with a NaN or Inf is left as it is and
        its count is -1.

    >>> select(torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0]]), "top_p", 0.75)
    (tensor([[2., 1., 0.],
            [0., 0., 0.]]), tensor([2, 0], dtype=torch.int32))
    """
    width = x.shape[-1]
    if x.numel() == 0:
        return x.clone(memory_format=torch.contiguous_format), x.new_zeros(x.shape[:-1], dtype=torch.int32)
    rows = x.reshape(-1, width)
    finite = torch.isfinite(rows).all(-1)
    magnitude = rows.abs().to(torch.float64)
    ordered, order = torch.sort(magnitude, dim=-1, descending=True, stable=True)  # stable: ties lowest index first
    if rule == "top_p":
        mass = ordered.cumsum(-1)
        if value == 1.0:
            kept = (ordered > 0).sum(-1)
        elif value == 0.0:
            kept = torch.zeros_like(order[:, 0])
        else:
            kept = (mass < value * mass[:, -1:]).sum(-1) + 1  # the entry that reaches it is kept
            kept = torch.minimum(kept, (ordered > 0).sum(-1))
    elif rule == "top_k":
        kept = torch.full_like(order[:, 0], top_k(value, width))
    elif rule == "max_p":
        kept = ((ordered >= value * ordered[:, :1]) & (ordered > 0)).sum(-1)
    else:
        raise ValueError(f"unknown rule {rule!r}: expected top_p, top_k or max_p")
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(width, device=x.device).expand_as(order))
    keep = (rank < kept[:, None]) | ~finite[:, None]
    y = torch.where(keep, rows, torch.zeros((), dtype=x.dtype, device=x.device))
    kept = torch.where(finite, kept, -1).to(torch.int32)
    return y.reshape(x.shape), kept.reshape(x.shape[:-1])


def top_k(value: float, width: int) -> int:
    """How many of ``width`` entries the rule of that name keeps.

    >>> top_k(0.5, 5), top_k(1.0, 5), top_k(0.0, 5)
    (3, 5, 0)
    """
    return min(width, math.floor(value * width + 0.5))
