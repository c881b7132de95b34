"""The reference backend, which computes each rule from its definition, `Rule.keep_mask`, in float64.

It runs on any device with float64. It is slow. All other backends must return the same result.
"""

from __future__ import annotations

import torch

from sparsedial.errors import SpecError
from sparsedial.rules import VectorRule


def select(
    x: torch.Tensor, rule: VectorRule, kept: torch.Tensor | None = None, warm_start: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a rule to each vector of a tensor.

    A `SpecError` is raised for a rule that does not define `keep_mask`, or whose mask has another shape or dtype.

    Args:
        x: Vectors, shape [..., D], any float dtype.
        rule: The rule, or the result of `Rule.bind`.
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
    if x.numel() == 0:
        return x.clone(memory_format=torch.contiguous_format), x.new_zeros(x.shape[:-1], dtype=torch.int32)
    rows = x.reshape(-1, x.shape[-1])
    is_finite = torch.isfinite(rows).all(-1, keepdim=True)
    magnitudes = torch.where(is_finite, rows.detach().abs().to(torch.float64), 0.0)
    keep = _compute_mask(rule, magnitudes)
    y = torch.where(keep | ~is_finite, rows, torch.zeros((), dtype=x.dtype, device=x.device))
    counts = torch.where(is_finite[:, 0], keep.sum(-1), -1).to(torch.int32)
    return y.reshape(x.shape), counts.reshape(x.shape[:-1])


def _compute_mask(rule: VectorRule, magnitudes: torch.Tensor) -> torch.Tensor:
    """Return the mask of a rule, after checking its shape and dtype."""
    keep = rule.keep_mask(magnitudes)
    if not isinstance(keep, torch.Tensor) or keep.dtype != torch.bool or keep.shape != magnitudes.shape:
        result = f"{keep.dtype} of shape {tuple(keep.shape)}" if isinstance(keep, torch.Tensor) else repr(type(keep))
        raise SpecError(
            f"rule {rule!r}: keep_mask returned {result}, expected a boolean tensor of the shape of its argument, "
            f"{tuple(magnitudes.shape)}"
        )
    return keep
