"""The reference backend, which computes each rule directly from its definition, with a sort in float64.

The reference is slow. All other backends must return the same result.
"""

from __future__ import annotations

import torch

from sparsedial.errors import SpecError
from sparsedial.rules import RULES, MaxP, Rule, TopK, TopP


def select(
    x: torch.Tensor, rule: Rule, kept: torch.Tensor | None = None, warm_start: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a rule to each vector of a tensor.

    A `SpecError` is raised for a rule that has no definition here.

    Args:
        x: Vectors, shape [..., D], any float dtype.
        rule: The rule.
        kept: Ignored. Other backends write the counts to this tensor.
        warm_start: Ignored. Other backends may start their search at the threshold of the previous call.

    Returns:
        The sparse vectors, shape [..., D], contiguous, with dropped entries set to zero, and the number of entries kept
        in each, shape [...], int32. A vector with a NaN or Inf is unchanged, and its count is -1.

    Example:
        >>> from sparsedial.rules import TopP
        >>> select(torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0]]), TopP(0.75))
        (tensor([[2., 1., 0.],
                [0., 0., 0.]]), tensor([2, 0], dtype=torch.int32))
    """
    width = x.shape[-1]
    if x.numel() == 0:
        return x.clone(memory_format=torch.contiguous_format), x.new_zeros(x.shape[:-1], dtype=torch.int32)
    rows = x.reshape(-1, width)
    is_finite = torch.isfinite(rows).all(-1)
    magnitudes = rows.abs().to(torch.float64)
    ordered, order = torch.sort(magnitudes, dim=-1, descending=True, stable=True)  # stable: lowest index first
    counts = _count_kept(ordered, rule)
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(width, device=x.device).expand_as(order))
    keep = (rank < counts[:, None]) | ~is_finite[:, None]
    y = torch.where(keep, rows, torch.zeros((), dtype=x.dtype, device=x.device))
    counts = torch.where(is_finite, counts, -1).to(torch.int32)
    return y.reshape(x.shape), counts.reshape(x.shape[:-1])


def _count_kept(ordered: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Return how many entries of each vector are kept, given its magnitudes in descending order, shape [N, D]."""
    if isinstance(rule, TopP):
        return _count_top_p(ordered, rule.p)
    if isinstance(rule, TopK):
        return _count_top_k(ordered, rule)
    if isinstance(rule, MaxP):
        return _count_max_p(ordered, rule.fraction)
    raise SpecError(f"no kernel computes the rule {rule!r}: expected one of {', '.join(RULES)}")


def _count_top_p(ordered: torch.Tensor, p: float) -> torch.Tensor:
    nonzero = (ordered > 0).sum(-1)
    if p == 1.0:
        return nonzero
    if p == 0.0:
        return torch.zeros_like(nonzero)
    mass = ordered.cumsum(-1)
    reaching = (mass < p * mass[:, -1:]).sum(-1) + 1  # includes the entry that reaches the target
    return torch.minimum(reaching, nonzero)


def _count_top_k(ordered: torch.Tensor, rule: TopK) -> torch.Tensor:
    return torch.full((len(ordered),), rule.count(ordered.shape[-1]), device=ordered.device)


def _count_max_p(ordered: torch.Tensor, fraction: float) -> torch.Tensor:
    return ((ordered >= fraction * ordered[:, :1]) & (ordered > 0)).sum(-1)
