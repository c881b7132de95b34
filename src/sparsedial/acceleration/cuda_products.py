"""The backend of CUDA devices: products that call the kernels of `sparsedial.acceleration.cuda_kernels`.

The host never waits for the device. The number of kept rows is known to the device only, so a launch has a fixed grid,
and a decode step can be captured in a CUDA graph. Which kernels a call launches depends on the number of vectors only.
Therefore equal inputs give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import triton
from torch.nn.functional import linear

from sparsedial.acceleration.backend import (
    MAX_DECODE_VECTORS,
    Backend,
    ProductCounts,
    ProductLimits,
    Selector,
)
from sparsedial.acceleration.cuda_kernels import (
    COUNTERS,
    IS_INTERPRETED,
    LIST_HEADER,
    add_partial_sums,
    list_kept_rows,
    multiply_listed_outputs,
    multiply_listed_rows,
    multiply_masked_rows,
)
from sparsedial.acceleration.cuda_launch import KernelLaunch, is_aligned
from sparsedial.kernels.dispatch import BoundRule

DTYPES = (torch.bfloat16, torch.float16)
SEGMENT = 1024  # rows that one program lists
MAX_PARTS = 512  # parts that the rows are divided into
SUM_ENTRIES = 8192  # partial sums that one program adds
OUTPUT_PROGRAMS = 8  # per multiprocessor, for products that skip outputs

Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Function of the vectors, of memory for the partial sums, and of the result."""


@dataclass(frozen=True)
class TileSizes:
    """Describes how a matrix is divided among the programs of a launch.

    Attributes:
        form: "list" to list the kept rows first and divide the list evenly, "mask" to divide all rows evenly and to
            load only the kept ones.
        block_rows: Rows that a program adds per pass.
        block_columns: Columns of a program.
        warps: Warps of a program.
        programs: Programs per multiprocessor.
        stages: Passes that are loaded at the same time. 1 to leave the order of loads to the compiler.
        keeps_row_sums: True to add up the rows of a tile after the last pass only. For one vector.
    """

    form: Literal["list", "mask"]
    block_rows: int
    block_columns: int
    warps: int
    programs: int
    stages: int = 1
    keeps_row_sums: bool = False


# The fastest of a sweep on an H200, over both matrices of an 8B model (benchmarks/bench_gpu_products.py --sweep).
ONE_VECTOR = TileSizes("list", block_rows=8, block_columns=512, warps=2, programs=8)
SEVERAL_VECTORS = TileSizes("list", block_rows=32, block_columns=256, warps=4, programs=4, stages=4)


def make_backend() -> Backend:
    """Return the kernels of CUDA devices."""
    return Backend(
        dtypes=DTYPES,
        make_selector=make_selector,
        make_kept_input_product=KeptInputs,
        make_kept_output_product=KeptOutputs,
        describe_device=describe_gpu,
    )


def make_selector(rule: BoundRule, width: int, dtype: torch.dtype) -> Selector:
    """Return a function that applies a rule to a few vectors.

    The kernel of a built-in rule is compiled for aligned vectors. Others are copied, so that no vector is compiled for
    in a decode step.

    Args:
        rule: The rule.
        width: Number of entries of a vector.
        dtype: Dtype of the vectors.
    """

    def select(x: torch.Tensor) -> torch.Tensor:
        if not is_aligned(x):
            x = x.clone()
        return rule.call_backend(x)[0]

    return select


class _Product:
    """The matrix of a product, its counters, and the listing of kept rows.

    Args:
        weight: The matrix.
        bias: The bias, or None.
        limits: When the whole matrix is read instead.
        counting_programs: Number of programs that count for one group of vectors. Defaults to None: those that list.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        limits: ProductLimits,
        counting_programs: int | None = None,
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.rows, self.columns = weight.shape
        self.limits = limits
        self._bias = weight if bias is None else bias.detach()  # without a bias, the kernel does not read it
        self._device_index = weight.get_device()
        slots = MAX_DECODE_VECTORS * (counting_programs or triton.cdiv(self.rows, SEGMENT))
        self._counters = torch.zeros((slots, len(COUNTERS)), dtype=torch.int64, device=weight.device)
        self._listing: dict[tuple[int, bool, bool], KernelLaunch] = {}

    def _list_rows(
        self, x: torch.Tensor, groups: int, *, listed: torch.Tensor | None = None, out: torch.Tensor | None = None
    ) -> None:
        """List the rows that the vectors of each group need and count the call, or only count it.

        Args:
            x: The vectors, or the mask of the kept entries.
            groups: Number of groups of vectors that share a list.
            listed: Memory for the lists. None if the call reads all rows.
            out: Result whose entries are set to zero where x is zero.
        """
        key = (groups, listed is not None, out is not None)
        if key not in self._listing:
            grid = (triton.cdiv(self.rows, SEGMENT), groups, 1)
            constants = (self.rows, triton.next_power_of_2(self.rows), SEGMENT, key[1], key[2])
            self._listing[key] = KernelLaunch(list_kept_rows, grid, constants, {"num_warps": 8})
        vectors = x.numel() // self.rows // groups
        self._listing[key](
            self._device_index,
            x,
            self._counters if listed is None else listed,
            self._counters,
            x if out is None else out,
            vectors,
        )

    def counts(self) -> ProductCounts:
        """Return the counts since the last reset."""
        totals = dict(zip(COUNTERS, self._counters.sum(0).tolist(), strict=True))
        row_bytes = self.columns * self.weight.element_size()
        return ProductCounts(rows=totals["calls"] * self.rows, row_bytes=row_bytes, **totals)

    def reset(self) -> None:
        """Set the counts to zero."""
        self._counters.zero_()


class KeptInputs(_Product):
    """The product that skips inputs: see `sparsedial.acceleration.backend.KeptInputProduct`.

    Args:
        weight: The matrix, one row per input, shape [rows, columns].
        bias: Shape [columns], or None.
        limits: When the whole matrix is read instead.
        one_vector: How the matrix is divided for one vector. Defaults to `ONE_VECTOR`.
        several_vectors: How the matrix is divided for several vectors. Defaults to `SEVERAL_VECTORS`.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        limits: ProductLimits,
        one_vector: TileSizes = ONE_VECTOR,
        several_vectors: TileSizes = SEVERAL_VECTORS,
    ) -> None:
        uses_mask = "mask" in (one_vector.form, several_vectors.form)
        super().__init__(weight, bias, limits, counting_programs=MAX_PARTS if uses_mask else None)
        self._tiles = (one_vector, several_vectors)
        self._kernels: dict[int, _RowKernels] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply a few vectors, shape [..., rows].

        Args:
            x: Vectors, shape [..., width].
        """
        vectors = x.numel() // self.rows
        if not is_aligned(x):
            x = x.clone()
        # The device does not tell the host how many rows it has listed.
        if self.limits.largest_share[vectors - 1] < self.limits.expected_share(vectors):
            self._list_rows(x, 1)
            return self.multiply_dense(x)
        kernels = self._kernels.get(vectors)
        if kernels is None:
            kernels = self._kernels[vectors] = self._make_kernels(vectors)
        return kernels(x)

    def multiply_dense(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply any number of vectors with the whole matrix.

        Args:
            x: Vectors, shape [..., width].

        Returns:
            The product, shape [..., columns].
        """
        return linear(x, self.weight.t(), self.bias)

    def _make_kernels(self, vectors: int) -> _RowKernels:
        if vectors == 1 or not self.limits.joins_vectors:
            return _RowKernels(self, self._tiles[0], groups=vectors)
        return _RowKernels(self, self._tiles[1], groups=1, vectors=vectors)


class _RowKernels:
    """The launches of a product that skips inputs, for one number of vectors.

    Args:
        product: The product.
        tiles: How the matrix is divided.
        groups: Number of groups of vectors.
        vectors: Number of vectors of a group, which share the rows that they read.
    """

    def __init__(self, product: KeptInputs, tiles: TileSizes, groups: int, vectors: int = 1) -> None:
        rows = product.rows
        columns = product.columns
        weight = product.weight
        self._product = product
        self._groups = groups
        self._vectors = vectors
        self._is_list = tiles.form == "list"
        column_tiles = triton.cdiv(columns, tiles.block_columns)
        self._parts = choose_parts(weight, column_tiles, tiles)
        is_matrix = vectors > 1
        constants: tuple[int | bool, ...] = (
            rows,
            columns,
            weight.stride(0),
            is_matrix,
            max(tiles.block_rows, 16) if is_matrix else tiles.block_rows,
            tiles.block_columns,
            tiles.stages,
            tiles.keeps_row_sums and not is_matrix,
        )
        kernel = multiply_listed_rows
        if not self._is_list:
            kernel = multiply_masked_rows
            constants += (triton.next_power_of_2(rows),)
        grid = (column_tiles, self._parts, groups)
        self._multiply = KernelLaunch(kernel, grid, constants, {"num_warps": tiles.warps})
        padded_parts = triton.next_power_of_2(self._parts)
        sum_columns = max(min(SUM_ENTRIES // padded_parts, triton.next_power_of_2(columns)), 16)
        self._add = KernelLaunch(
            add_partial_sums,
            (triton.cdiv(columns, sum_columns), groups * vectors, 1),
            (columns, product.bias is not None, padded_parts, sum_columns),
            {"num_warps": 4},
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply the vectors.

        Args:
            x: Vectors, shape [..., width].
        """
        product = self._product
        vectors = self._vectors
        parts = self._parts
        index = product._device_index
        out = x.new_empty((*x.shape[:-1], product.columns))
        lines = self._groups * parts * vectors
        partials = torch.empty(lines * product.columns, dtype=torch.float32, device=x.device)
        second = product._counters
        if self._is_list:
            entries = self._groups * (product.rows + LIST_HEADER)
            second = torch.empty(entries, dtype=torch.int32, device=x.device)
            product._list_rows(x, self._groups, listed=second)
        self._multiply(index, x, second, product.weight, partials, vectors, parts)
        self._add(index, partials, product._bias, out, vectors, parts)
        return out


class KeptOutputs(_Product):
    """The product that skips outputs: see `sparsedial.acceleration.backend.KeptOutputProduct`.

    Args:
        weight: The matrix, one row per output, shape [rows, columns].
        bias: Shape [rows], or None.
        limits: When the whole matrix is read instead. It is not used.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, limits: ProductLimits) -> None:
        super().__init__(weight, bias, limits)
        if bias is not None:
            self._bias = bias.detach().contiguous()
        block_columns = min(triton.next_power_of_2(self.columns), 512)
        constants = (self.rows, self.columns, weight.stride(0), bias is not None, 8, block_columns)
        programs = min(triton.cdiv(self.rows, 8), OUTPUT_PROGRAMS * count_multiprocessors(weight.device))
        self._multiply = KernelLaunch(multiply_listed_outputs, (programs, 1, 1), constants, {"num_warps": 4})

    def __call__(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Multiply a few vectors, shape [..., columns], for the outputs of a mask, shape [..., rows].

        Args:
            x: Vectors, shape [..., width].
            kept: Boolean mask of the outputs to compute, shape [..., rows].
        """
        if not is_aligned(x):
            x = x.clone()
        if not is_aligned(kept):
            kept = kept.clone()
        out = x.new_empty((*x.shape[:-1], self.rows))
        listed = torch.empty(self.rows + LIST_HEADER, dtype=torch.int32, device=x.device)
        kept = kept.view(torch.uint8)
        self._list_rows(kept, 1, listed=listed, out=out)
        vectors = kept.numel() // self.rows
        self._multiply(self._device_index, x, kept, listed, self.weight, self._bias, out, vectors)
        return out


def choose_parts(weight: torch.Tensor, column_tiles: int, tiles: TileSizes) -> int:
    """Return the number of parts that the rows are divided into.

    Args:
        weight: The matrix.
        column_tiles: Number of tiles that the columns are divided into.
        tiles: How the matrix is divided.
    """
    programs = tiles.programs * count_multiprocessors(weight.device)
    most = min(MAX_PARTS, math.ceil(weight.shape[0] / tiles.block_rows))
    return max(1, min(round(programs / column_tiles), most))


def count_multiprocessors(device: torch.device) -> int:
    """Return the number of multiprocessors of a device. In Triton's interpreter, any number will do.

    Args:
        device: A CUDA device, or the CPU.
    """
    if IS_INTERPRETED:
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def describe_gpu() -> str:
    """Return the name of the current GPU and the version of the compiler of the kernels."""
    if IS_INTERPRETED:
        return "Triton's interpreter"
    return f"{torch.cuda.get_device_name()}, Triton {triton.__version__}"
