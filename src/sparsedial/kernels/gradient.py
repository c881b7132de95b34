"""Gradient of the operators that apply a rule, and their computation inside of `torch.func.vmap`.

The kept set of a vector is piecewise constant, so the operator is differentiated as ``y = m * x`` with a constant mask
m, which is 1 for the kept entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sparsedial.rules import Rule, VectorRule


def find_kept_entries(x: torch.Tensor, y: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return the mask of the entries that a rule kept.

    An entry that is not zero in y was kept. If a rule kept more entries than that, it kept zeros, lowest index first.

    Args:
        x: Vectors, shape [..., D].
        y: The vectors with the dropped entries set to zero, shape [..., D].
        kept: Number of entries kept in each vector, shape [...]. It is -1 for a vector with a NaN or Inf, which is
            unchanged.

    Returns:
        Boolean tensor of shape [..., D]. All entries of a vector with a NaN or Inf are kept.

    Example:
        >>> x = torch.tensor([3.0, 0.0, 0.0])
        >>> find_kept_entries(x, x, torch.tensor(2))
        tensor([ True,  True, False])
    """
    mask = y != 0
    kept_zeros = kept.unsqueeze(-1) - mask.sum(-1, keepdim=True)
    is_zero = x == 0
    mask = mask | (is_zero & (is_zero.cumsum(-1) <= kept_zeros))
    return mask | (kept < 0).unsqueeze(-1)


def register_gradient(operator: str, make_rule: Callable[..., VectorRule], library: torch.library.Library) -> None:
    """Define the gradient of an operator ``(x, *rule arguments) -> (y, kept)``.

    Args:
        operator: Name of the operator, such as "sparsedial::select".
        make_rule: Function that makes the rule from the arguments that follow x.
        library: Library that defines the operator.
    """

    def save_mask(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        x, *arguments = inputs
        rule = make_rule(*arguments)
        ctx.is_dense = isinstance(rule, Rule) and rule.value == rule.dense_value
        if not ctx.is_dense:
            ctx.save_for_backward(find_kept_entries(x.detach(), output[0].detach(), output[1]))
        ctx.argument_count = len(arguments)

    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        if not ctx.is_dense:
            [mask] = ctx.saved_tensors
            gradient = torch.where(mask, gradient, 0)
        return (gradient, *[None] * ctx.argument_count)

    torch.library.register_autograd(operator, backward, setup_context=save_mask, lib=library)


def register_batching(operator: str, library: torch.library.Library) -> None:
    """Define the operator ``(x, *rule arguments) -> (y, kept)`` inside of `torch.func.vmap`.

    Args:
        operator: Name of the operator, such as "sparsedial::select".
        library: Library that defines the operator.
    """
    namespace, name = operator.split("::")
    call = getattr(getattr(torch.ops, namespace), name).default

    def compute_batch(
        _info: Any, in_dims: tuple[int | None, ...], x: torch.Tensor, *arguments: Any
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int]]:
        dimension = in_dims[0]
        assert dimension is not None  # x is the only tensor
        return call(x.movedim(dimension, 0), *arguments), (0, 0)

    torch.library.register_vmap(operator, compute_batch, lib=library)
