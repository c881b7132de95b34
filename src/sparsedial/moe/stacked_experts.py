"""Experts whose weights are stacked in one parameter per projection.

transformers stacks the experts of a layer in 3-D parameters, so an expert has no module that a hook could be attached
to. `read_expert_shape` and `ExpertStandIn` describe such experts, and `ExpertTap` transforms their vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from sparsedial.moe.experts_forward import TransformFunctions, VectorFunction, up_parameter_name
from sparsedial.moe.experts_interface import add_transform, remove_transform, uses_experts_interface
from sparsedial.moe.routing import RoutedTransform


class ExpertShape(NamedTuple):
    """The number of stacked experts and the widths of their vectors.

    Attributes:
        experts: Number of experts.
        hidden: Width of the input vector.
        width: Width of the intermediate vector.
    """

    experts: int
    hidden: int
    width: int


def read_expert_shape(module: nn.Module) -> ExpertShape | str:
    """Return the shape of the experts that a module stacks, or the reason why they are not supported.

    Args:
        module: A module that may stack experts.

    Returns:
        The shape if `experts_forward` can run the experts, otherwise the reason as a clause.
    """
    kind = type(module).__name__
    if not uses_experts_interface(module):
        return (
            f"{kind} stacks its experts' weights in one parameter and runs them by itself, "
            "not through transformers' experts interface"
        )
    if getattr(module, "_is_expert_parallel", False):
        return f"{kind} is split over several processes"
    up = _up_weight(module)
    down: Any = module.down_proj
    if not (_is_stacked_matrix(up) and _is_stacked_matrix(down)):
        return f"{kind} does not store its experts' weights as one 3-D parameter per projection"
    if _is_quantised(up) or _is_quantised(down):
        return f"{kind} keeps its experts' weights quantised, as {up.dtype} and {down.dtype}"
    up_in, up_out = _matrix_shape(up, module)
    down_in, down_out = _matrix_shape(down, module)
    if up_in != down_out or up_out != _up_outputs(module, down_in):
        return f"the shapes of {kind}'s weights, {list(up.shape)} and {list(down.shape)}, do not fit together"
    return ExpertShape(int(down.shape[0]), up_in, down_in)


class ExpertStandIn(nn.Module):
    """A small expert that has linear layers and the activation function of stacked experts, and can be traced.

    Args:
        stack: The module that stacks the experts.
        width: Width of the intermediate vector of the stacked experts.
    """

    def __init__(self, stack: nn.Module, width: int) -> None:
        super().__init__()
        weight = _up_weight(stack)
        device = "cpu" if weight.device.type == "meta" else weight.device
        up_outputs = _up_outputs(stack, width)
        self.stack = stack
        self.up = nn.utils.skip_init(nn.Linear, 2, up_outputs, bias=False, device=device, dtype=weight.dtype)
        self.down = nn.utils.skip_init(nn.Linear, width, 2, bias=False, device=device, dtype=weight.dtype)
        # The weights can have any values, but drawing them must not change the state of the global random generator.
        with torch.no_grad():
            self.up.weight.copy_(torch.arange(2 * up_outputs).reshape(up_outputs, 2).sin())
            self.down.weight.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``down(activation(up(x)))``.

        Args:
            x: Input, shape [tokens, 2].

        Returns:
            Output, shape [tokens, 2].
        """
        stack: Any = self.stack
        projected = self.up(x)
        if stack.has_gate:
            return self.down(stack._apply_gate(projected))
        return self.down(stack.act_fn(projected))


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


class ExpertTap:
    """Transformation of one vector of all experts that a module stacks, applied until `remove` is called.

    Args:
        module: The module that stacks the experts.
        vector: Name of the vector ("input", "up", "gate" or "intermediate").
        apply: Function that sparsifies the vector. See `RoutedTransform` for the shapes.
        compute: Function that computes u or g of gated experts from the output of the fused gate and up projection.
            Defaults to the identity.
    """

    def __init__(
        self, module: nn.Module, vector: str, apply: RoutedTransform, compute: VectorFunction = _identity
    ) -> None:
        self._module = module
        self._vector = vector
        add_transform(module, vector, TransformFunctions(apply, compute))

    def remove(self) -> None:
        """Stop transforming the vector. The module is unchanged once all its taps are removed."""
        remove_transform(self._module, self._vector)


def _up_weight(module: Any) -> Any:
    return getattr(module, up_parameter_name(module), None)


def _up_outputs(module: Any, width: int) -> int:
    """Return the number of outputs of the up projection, including those of a fused gate projection."""
    if module.has_gate:
        return 2 * width
    return width


def _is_stacked_matrix(weight: Any) -> bool:
    return isinstance(weight, torch.Tensor) and weight.dim() == 3


def _is_quantised(weight: torch.Tensor) -> bool:
    return not weight.dtype.is_floating_point or weight.dtype.itemsize < 2


def _matrix_shape(weight: torch.Tensor, module: Any) -> tuple[int, int]:
    """Return the number of inputs and the number of outputs of each expert's matrix."""
    rows, columns = weight.shape[1:]
    if module.is_transposed:
        return rows, columns
    return columns, rows
