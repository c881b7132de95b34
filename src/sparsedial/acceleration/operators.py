"""Operators of the accelerated modules, through which ``torch.compile`` calls code that it cannot trace."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, library

NAMESPACE = "sparsedial"

_operators = library.Library(NAMESPACE, "FRAGMENT")


def register_operator(name: str, parameters: str, run: Callable[..., Tensor], fake: Callable[..., Tensor]) -> None:
    """Register an operator that returns one tensor, as ``torch.ops.sparsedial.NAME``.

    Args:
        name: Name of the operator.
        parameters: Its parameters in the notation of PyTorch, such as "Tensor x, int handle".
        run: Function that computes the result on any device.
        fake: Function that returns an empty tensor of the shape of the result.
    """
    _operators.define(f"{name}({parameters}) -> Tensor")
    _operators.impl(name, run, "CompositeExplicitAutograd")
    library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_operators)
