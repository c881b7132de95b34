"""One op, `torch.ops.sparsedial.select`, with a reference by definition and fast backends by device."""

from __future__ import annotations

import torch

from sparsedial.errors import SpecError
from sparsedial.kernels import op as op  # registers torch.ops.sparsedial.select
from sparsedial.rules import Rule


def apply_rule(x: torch.Tensor, rule: Rule) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparsify each vector of ``x`` (its last dimension) by ``rule``.

    Args:
        x: ``[..., D]``, float32, bfloat16, float16 or float64; any leading shape, any strides.
        rule: `TopP`, `TopK` or `MaxP`.

    Returns:
        ``y [..., D]`` of ``x``'s dtype, dropped entries zero, and ``kept [...]`` int32, the number of
        entries that stay in each vector. A vector with a NaN or Inf is left as it is and its count
        is -1 (no host synchronisation: the caller looks when it wants to).

    Raises:
        SpecError: ``x`` is not a float tensor with at least one dimension, or ``rule`` is not a rule.

    >>> import sparsedial as sd
    >>> y, kept = sd.apply_rule(torch.tensor([[4.0, -3.0, 2.0, 1.0]]), sd.TopP(0.8))
    >>> y, kept
    (tensor([[ 4., -3.,  2.,  0.]]), tensor([3], dtype=torch.int32))
    """
    if not isinstance(rule, Rule):
        raise SpecError(f"apply_rule: expected a rule such as TopP(0.9), got {rule!r}")
    if not isinstance(x, torch.Tensor) or x.dtype not in op.DTYPES or x.dim() == 0:
        seen = f"{x.dtype} tensor of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else repr(type(x))
        raise SpecError(f"apply_rule: expected a float tensor [..., D], got {seen}")
    return torch.ops.sparsedial.select(x, rule.name, rule.value)
