"""Launches of Triton kernels that skip Triton's inspection of the arguments.

A decode step is short, so the time of the host matters. Triton looks at every argument to find the compiled kernel.
Here, one object has the kernel of one call site: its constants never change, and all addresses are aligned alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sparsedial.acceleration.cuda_kernels import IS_INTERPRETED

ALIGNMENT = 16  # bytes; Triton compiles other kernels for other addresses

Grid = tuple[int, int, int]


class KernelLaunch:
    """A kernel with the grid and the constants of one call site. The first call compiles it.

    Args:
        kernel: The function that Triton compiles.
        grid: Number of programs in three dimensions.
        constants: The compile-time parameters, which follow the arguments.
        options: Options of Triton, for example the number of warps.
    """

    def __init__(self, kernel: Any, grid: Grid, constants: tuple[Any, ...], options: Mapping[str, int]) -> None:
        self._kernel = kernel
        self._grid = grid
        self._constants = constants
        self._options = options
        self._start: Callable[..., None] | None = None

    def __call__(self, device_index: int, *arguments: torch.Tensor | int) -> None:
        """Launch the kernel on the current stream.

        Args:
            device_index: Index of the device of all tensors.
            *arguments: Tensors and integers. A tensor has the same alignment in all calls.
        """
        if IS_INTERPRETED:
            self._kernel[self._grid](*arguments, *self._constants)
        elif device_index != torch._C._cuda_getDevice():
            with torch.cuda.device(device_index):
                self._launch(device_index, arguments)
        else:
            self._launch(device_index, arguments)

    def _launch(self, device_index: int, arguments: tuple[torch.Tensor | int, ...]) -> None:
        if self._start is None:
            self._start = self._compile(arguments)
            return
        values = [value if type(value) is int else value.data_ptr() for value in arguments]  # type: ignore[union-attr]
        self._start(torch._C._cuda_getCurrentRawStream(device_index), values)

    def _compile(self, arguments: tuple[torch.Tensor | int, ...]) -> Callable[..., None]:
        """Compile and run the kernel, and return a function that runs it again."""
        compiled = self._kernel[self._grid](*arguments, *self._constants, **self._options)
        run = compiled.run
        function = compiled.function
        metadata = compiled.packed_metadata
        grid = self._grid
        constants = self._constants

        def start(stream: int, values: list[int]) -> None:
            # The three None are Triton's launch metadata and its enter and exit hooks.
            run(*grid, stream, function, metadata, None, None, None, *values, *constants)

        return start


def is_aligned(tensor: torch.Tensor) -> bool:
    """Return True if the memory of a tensor begins at a multiple of `ALIGNMENT`.

    Args:
        tensor: Any tensor.
    """
    return tensor.data_ptr() % ALIGNMENT == 0
