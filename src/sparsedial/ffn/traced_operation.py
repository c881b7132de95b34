"""PyTorch operations as a dispatch mode sees them: their kinds, and the tensors and memory that they use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sparsedial.ffn.expression import mutates_argument, operator_name

# Only an expression that contains one of these operations can be an FFN's activation.
# fmt: off
NONLINEAR_OPERATIONS = frozenset({
    "_prelu_kernel", "celu", "clamp_min", "elu", "erf", "exp", "expm1", "ge", "gelu", "gt", "hardsigmoid", "hardswish",
    "hardtanh", "le", "leaky_relu", "log_sigmoid_forward", "lt", "maximum", "mish", "relu", "relu6", "selu", "sigmoid",
    "silu", "softplus", "tanh", "threshold",
})
# These operations are elementwise, although PyTorch does not tag them as pointwise.
COPY_OPERATIONS = frozenset({"_to_copy", "alias", "clone", "contiguous", "detach", "lift_fresh"})
UNTAGGED_OPERATIONS = frozenset({"_prelu_kernel"})
# A mixture-of-experts layer gathers the token rows of an expert with one of these operations.
GATHER_OPERATIONS = frozenset({"gather", "index", "index_select"})
JOIN_OPERATIONS = frozenset({"cat", "stack"})
# These operations reduce a vector to one number per token, such as Gemma 3n's activation threshold. The number can
# be an operand of an expression, but it is not an activation vector.
REDUCTION_OPERATIONS = frozenset({
    "amax", "amin", "linalg_vector_norm", "max", "mean", "min", "std", "std_mean", "sum", "var", "var_mean",
})
# fmt: on


@dataclass(frozen=True, eq=False)
class Operation:
    """One dispatched call of a PyTorch operator.

    Attributes:
        func: The operator.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @cached_property
    def name(self) -> str:
        """The operator's name without namespace and overload."""
        return operator_name(self.func)

    @cached_property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors among the arguments, in order."""
        return tensors_in((self.args, self.kwargs))

    @property
    def is_higher_order(self) -> bool:
        """True for operators that call functions, such as flex attention and `torch.cond`."""
        return isinstance(self.func, HigherOrderOperator)

    @property
    def is_mutating(self) -> bool:
        """True if the operator writes into one of its arguments."""
        return mutates_argument(self.func)

    @property
    def is_nonlinear(self) -> bool:
        """True if an expression with this operation can be an activation."""
        return self.name.removesuffix("_") in NONLINEAR_OPERATIONS

    @property
    def is_elementwise(self) -> bool:
        """True if each entry of the result depends on one entry of each operand, or on one number per token."""
        is_pointwise = torch.Tag.pointwise in getattr(self.func, "tags", ())  # a higher-order operator has no tags
        return is_pointwise or self.name in COPY_OPERATIONS | REDUCTION_OPERATIONS | UNTAGGED_OPERATIONS

    def is_view(self, results: list[torch.Tensor]) -> bool:
        """Return True if all results are views of the first argument.

        Args:
            results: The tensors that the operation returned.
        """
        if not self.tensors or not results or self.is_mutating:
            return False
        address = storage_address(self.tensors[0])
        return all(storage_address(result) == address for result in results)

    def run_functions_in(self, mode: TorchDispatchMode) -> Any:
        """Run a higher-order operator, and the functions among its arguments in a dispatch mode.

        PyTorch disables the mode while it runs an operator, so each function has to enable it again.

        Args:
            mode: The mode.

        Returns:
            The result of the operator.
        """

        def enable_mode(argument: Any) -> Any:
            if isinstance(argument, torch.Tensor) or not callable(argument):
                return argument

            @wraps(argument)
            def run_in_mode(*args: Any, **kwargs: Any) -> Any:
                if is_in_vmap():  # Flex attention computes single scores in this way.
                    return argument(*args, **kwargs)
                with mode:
                    return argument(*args, **kwargs)

            return run_in_mode

        args, kwargs = tree_map(enable_mode, (self.args, self.kwargs))
        return self.func(*args, **kwargs)


def compute_glu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    """Compute `torch.nn.functional.glu` by elementwise operations on its two halves.

    Args:
        x: Input, shape [..., 2 * width] if ``dim`` is the last dimension.
        dim: Dimension that is split (default: the last one).

    Returns:
        The first half times the sigmoid of the second half.
    """
    up, gate = x.chunk(2, dim)
    return up * torch.sigmoid(gate)


def is_in_vmap() -> bool:
    """Return True while PyTorch runs a function that was passed to `torch.vmap` or a similar transformation."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def remove_vmap(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor with the batch dimension that `torch.vmap` hides from the function that it calls.

    Args:
        tensor: Any tensor, inside or outside of such a function.

    Returns:
        The tensor with all dimensions, which is the same one outside.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def storage_address(tensor: torch.Tensor) -> int:
    """Return the address of a tensor's storage object, which views of the tensor share.

    Args:
        tensor: Any tensor. It may have no data, as on the device "meta".

    Returns:
        The address.
    """
    return tensor.untyped_storage()._cdata


def tensors_in(values: Any) -> list[torch.Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries.

    Args:
        values: The nested containers, such as the results of an operation.

    Returns:
        The tensors, in order.
    """
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
