"""Expressions: tensors written as elementwise functions of projection outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from sparsedial.ffn.projections import out_features


@dataclass(frozen=True)
class OutputSlice:
    """The entries ``output[..., start : start + step * width : step]`` of a module's output.

    Attributes:
        module: The projection that computes the output.
        start: Index of the first entry.
        step: Distance between neighbouring entries.
        width: Number of entries.
    """

    module: nn.Module
    start: int
    step: int
    width: int

    @property
    def whole(self) -> bool:
        """True if the slice is the module's complete output."""
        return self.start == 0 and self.step == 1 and self.width == out_features(self.module)

    def select(self, output: torch.Tensor) -> torch.Tensor:
        """Return the slice of an output as a view.

        Args:
            output: Output of ``module``, shape [..., out_features].

        Returns:
            A view of shape [..., width].
        """
        return output[..., self.start : self.start + self.step * self.width : self.step]


@dataclass(eq=False)
class Expression:
    """A tensor as a tree of elementwise operations whose leaves are slices of projection outputs.

    An expression is either a leaf, which has a ``part``, or an operation, which has a ``func``.

    Attributes:
        tensor: Copy of the tensor's values in the traced forward pass.
        part: The slice of a projection's output that a leaf stands for. None for an operation.
        func: The PyTorch operator of an operation. None for a leaf.
        args: Positional arguments of ``func``. Arguments that are expressions themselves are its operands.
        kwargs: Keyword arguments of ``func``.
        parts: All slices that the tensor depends on.
        is_nonlinear: True if the tree contains a nonlinear operation.
        is_mutating: True if ``func`` writes into its first argument. It is stored, because the schema of an operator
            cannot be read while `torch.compile` traces the evaluation.
    """

    tensor: torch.Tensor
    part: OutputSlice | None = None
    func: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    parts: frozenset[OutputSlice] = frozenset()
    is_nonlinear: bool = False
    is_mutating: bool = False

    @classmethod
    def leaf(cls, tensor: torch.Tensor, part: OutputSlice) -> Expression:
        """Return the expression of a tensor that is a slice of a projection's output.

        Args:
            tensor: The values of the slice, copied.
            part: The slice.

        Returns:
            The expression.
        """
        return cls(tensor.detach().clone(), part=part, parts=frozenset([part]))

    @property
    def name(self) -> str:
        """The operator's name without namespace and overload, such as ``mul``. Empty for a leaf."""
        if self.func is None:
            return ""
        return operator_name(self.func)

    @property
    def operands(self) -> list[Expression]:
        """The arguments of the operation that are expressions themselves."""
        return expressions_in((self.args, self.kwargs))

    def walk(self) -> Iterator[Expression]:
        """Yield this expression and all expressions below it, parents first."""
        yield self
        for operand in self.operands:
            yield from operand.walk()

    def __call__(self, values: dict[OutputSlice, torch.Tensor]) -> torch.Tensor:
        """Evaluate the expression with other values of the projection outputs.

        Args:
            values: Tensor for each slice in ``parts``. The tensors are not modified.

        Returns:
            The value of the expression.

        Raises:
            RuntimeError: The expression has neither a part nor an operator.
        """
        if self.part is not None:
            return values[self.part]
        if self.func is None:
            raise RuntimeError("the expression has neither a part nor an operator: pass part= or func=")

        def evaluate(argument: Any) -> Any:
            return argument(values) if isinstance(argument, Expression) else argument

        args = list(tree_map(evaluate, self.args))
        kwargs = tree_map(evaluate, self.kwargs)
        if self.is_mutating:
            args[0] = args[0].clone()
        return self.func(*args, **kwargs)


def expressions_in(values: Any) -> list[Expression]:
    """Return the expressions in nested tuples, lists and dictionaries.

    Args:
        values: The nested containers, such as the arguments of an operation.

    Returns:
        The expressions, in order.
    """
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Expression)]


def operator_name(func: Callable[..., Any]) -> str:
    """Return the name of a PyTorch operator without namespace and overload.

    Args:
        func: The operator.

    Returns:
        The name.

    Example:
        >>> operator_name(torch.ops.aten.mul.Tensor)
        'mul'
    """
    pieces = str(func).split(".")
    if len(pieces) >= 3:
        return pieces[1]
    return str(getattr(func, "__name__", func))


def mutates_argument(func: Callable[..., Any]) -> bool:
    """Return True if a PyTorch operator writes into one of its arguments.

    Args:
        func: The operator.

    Returns:
        True for operators such as ``torch.ops.aten.mul_.Tensor``.
    """
    schema = getattr(func, "_schema", None)
    return schema is not None and schema.is_mutable
