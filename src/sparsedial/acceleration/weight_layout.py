"""Layouts of the weights of projections, with the weights stored once.

A kernel skips rows of a matrix, so a row has to hold what a dropped entry makes superfluous: the weights of one input,
or those of one output. The parameters of the modules become views of this matrix. They keep their shapes and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

CACHE_LINE_BYTES = 64
MIN_PADDED_BYTES = 4096  # shorter rows would take more than 1.6% more memory
CONFLICTING_BYTES = 2048  # rows at a multiple of this distance map to few sets of a first-level cache

Layout = Literal["input-major", "output-major"]
"""Whether a row of the matrix has the weights of one input or of one output."""


class WeightLayout:
    """The matrix of one or two projections that read the same vector, in the layout that a kernel needs.

    Args:
        modules: The projections: `nn.Linear` or the `Conv1D` of transformers.
        layout: The layout. In "input-major", the outputs of the projections follow each other in a row.

    Attributes:
        matrices: One matrix per projection, whose rows are contiguous.
        joined: The matrices side by side, if the layout is "input-major": see `join_rows`.

    Example:
        >>> linear = nn.Linear(3, 2)
        >>> before = linear.weight.detach().clone()
        >>> layout = WeightLayout([linear], "input-major")
        >>> layout.joined.shape, layout.joined.is_contiguous(), torch.equal(linear.weight, before)
        (torch.Size([3, 2]), True, True)
        >>> linear.weight.data_ptr() == layout.joined.data_ptr()
        True
    """

    @torch.inference_mode(False)  # so that the weights can be trained, also if the caller is in inference mode
    def __init__(self, modules: Sequence[nn.Module], layout: Layout) -> None:
        self._modules = list(modules)
        self._was_contiguous = [get_weight(module).is_contiguous() for module in modules]
        self.matrices: list[torch.Tensor] = []
        self.joined: torch.Tensor | None = None
        if layout == "input-major":
            self._join()
        else:
            for module in modules:
                matrix = _input_major(module).t().contiguous()
                self.matrices.append(matrix)
                _set_weight(module, matrix.t())

    def _join(self) -> None:
        parts = [_input_major(module) for module in self._modules]
        self.joined = join_rows(parts)
        start = 0
        for module, part in zip(self._modules, parts, strict=True):
            matrix = self.joined[:, start : start + part.shape[1]]
            start += part.shape[1]
            self.matrices.append(matrix)
            _set_weight(module, matrix)

    @torch.inference_mode(False)
    def restore(self) -> None:
        """Give each parameter a memory of its own again, in its original layout, with its present values."""
        for module, was_contiguous in zip(self._modules, self._was_contiguous, strict=True):
            weight = get_weight(module)
            if was_contiguous:
                weight.data = weight.detach().clone(memory_format=torch.contiguous_format)
            else:
                weight.data = weight.detach().t().clone(memory_format=torch.contiguous_format).t()
        self.matrices.clear()
        self.joined = None


def join_rows(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return matrices side by side, with contiguous rows.

    On a CPU, there is an unused cache line after each row if rows have at least `MIN_PADDED_BYTES` and a multiple of
    `CONFLICTING_BYTES`. Otherwise neighboring rows replace each other in the first-level cache, and PyTorch's products
    take up to 17% longer.

    Args:
        matrices: Matrices with the same number of rows, dtype and device.

    Returns:
        The matrix, shape [rows, columns]. The entries of a row are contiguous. A single matrix is not copied if it has
        this layout.
    """
    first = matrices[0]
    columns = sum(matrix.shape[1] for matrix in matrices)
    row_bytes = columns * first.element_size()
    if first.is_cpu and row_bytes >= MIN_PADDED_BYTES and row_bytes % CONFLICTING_BYTES == 0:
        padding = CACHE_LINE_BYTES // first.element_size()
        memory = first.new_zeros((first.shape[0], columns + padding))
        return torch.cat(list(matrices), dim=1, out=memory[:, :columns])
    return (first if len(matrices) == 1 else torch.cat(list(matrices), dim=1)).contiguous()


class WeightMemory:
    """Remembers where the weights and biases of projections are, to notice when they are replaced.

    Args:
        modules: The projections, after their weights were rearranged.

    Example:
        >>> linear = nn.Linear(3, 2)
        >>> memory = WeightMemory([linear])
        >>> before = memory.is_unchanged()
        >>> linear.weight = nn.Parameter(torch.zeros(2, 3))
        >>> before, memory.is_unchanged()
        (True, False)
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._copies_biases = len(modules) > 1  # side by side, so that later changes of their values are missed
        self._parameters: list[tuple[dict[str, Any], int, int, int]] = []  # addresses, and the version of the bias
        for module in modules:
            parameters: dict[str, Any] = module._parameters
            bias = parameters["bias"]
            address, version = (0, 0) if bias is None else (bias.data_ptr(), bias._version)
            self._parameters.append((parameters, parameters["weight"].data_ptr(), address, version))

    def is_unchanged(self) -> bool:
        """Return True if all weights and biases are where they were. A decode step asks for each FFN."""
        for parameters, weight_address, bias_address, bias_version in self._parameters:
            weight = parameters.get("weight")  # None if it was pruned or parametrized
            if weight is None or weight.data_ptr() != weight_address:
                return False
            bias = parameters.get("bias")
            if bias is None:
                if bias_address:
                    return False
            elif bias.data_ptr() != bias_address or (self._copies_biases and bias._version != bias_version):
                return False
        return True

    def need_gradients(self) -> bool:
        """Return True if a weight or a bias needs a gradient in the present mode of PyTorch."""
        if not torch.is_grad_enabled():
            return False
        for parameters, *_ in self._parameters:
            if any(parameter is not None and parameter.requires_grad for parameter in parameters.values()):
                return True
        return False


def get_weight(module: nn.Module) -> nn.Parameter:
    """Return the weight of a projection.

    Args:
        module: The projection.
    """
    weight = module.weight
    assert isinstance(weight, nn.Parameter)  # `check_projection` has refused all others
    return weight


def stores_inputs_first(module: nn.Module) -> bool:
    """Return True if the weight of a projection has the shape [inputs, outputs], as that of `Conv1D` has.

    Args:
        module: The projection.
    """
    return type(module).__name__ == "Conv1D"


def _input_major(module: nn.Module) -> torch.Tensor:
    """Return the weight as a view of shape [inputs, outputs]."""
    weight = get_weight(module).detach()
    if stores_inputs_first(module):
        return weight
    return weight.t()


def _set_weight(module: nn.Module, matrix: torch.Tensor) -> None:
    """Let the parameter of a projection be a view of a matrix of shape [inputs, outputs]."""
    if not stores_inputs_first(module):
        matrix = matrix.t()
    get_weight(module).data = matrix
