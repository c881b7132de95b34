"""The products of the CPU, which call the kernels of `sparsedial.acceleration.cpu_kernels`."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch.nn.functional import linear

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, ProductLimits, Selector
from sparsedial.acceleration.cpu_kernels import (
    PARTS,
    ProductKernel,
    compile_all_outputs,
    compile_kept_inputs,
    compile_kept_outputs,
)
from sparsedial.acceleration.cpu_product_records import CpuProduct, ProductCall
from sparsedial.acceleration.processor import multiplies_bfloat16
from sparsedial.kernels.dispatch import BoundRule

SUMS_PER_TILE = 48 * 1024  # they fit into the second-level cache, and rows are read in long pieces
ROWS_PER_TILE = 64  # rows whose dot products a thread computes at a time
COLUMN_MULTIPLE = 32  # sums of one step of a kernel, in whole cache lines
CHUNK_ENTRIES = 1 << 20  # entries of a 16-bit matrix that are converted to float32 at a time
MIN_CONVERTED_VECTORS = 64  # for fewer vectors, the conversion takes longer than the product


def make_selector(rule: BoundRule, width: int, dtype: torch.dtype) -> Selector:
    """Return a function that applies a rule to a few vectors. One vector takes the entry point for decoding.

    Args:
        rule: The rule.
        width: Number of entries of a vector.
        dtype: Dtype of the vectors.
    """
    slots = rule.decode_slots([width])

    def select_many(x: torch.Tensor) -> torch.Tensor:
        return rule.call_backend(x)[0]

    if slots is None:
        return select_many
    kernel = slots.slot_function(0, dtype)
    owner = slots  # the kernel writes to its memory

    def select(x: torch.Tensor) -> torch.Tensor:
        if x.numel() != width or owner is None:
            return select_many(x)
        y = torch.empty_like(x)
        kernel(x.data_ptr(), y.data_ptr())
        return y

    return select


class KeptInputs(CpuProduct):
    """The product that skips inputs: see `sparsedial.acceleration.backend.KeptInputProduct`.

    Args:
        weight: The matrix, one row per input, shape [rows, columns].
        bias: Shape [columns], or None.
        limits: When the whole matrix is read instead.
    """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply a few vectors, shape [..., rows].

        Args:
            x: Vectors, shape [..., width].
        """
        out = x.new_empty((*x.shape[:-1], self.columns))
        if self.call_for(x.numel() // self.rows)(x.data_ptr(), 0, out.data_ptr()):
            return out
        return self.multiply_with_library(x)

    def multiply_dense(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply any number of vectors with the whole matrix.

        Args:
            x: Vectors, shape [..., width].

        Returns:
            The product, shape [..., columns].
        """
        vectors = x.numel() // self.rows
        if vectors == 0 or self.limits.prefers_library(vectors) or not x.is_contiguous():
            return self.multiply_with_library(x)
        out = x.new_empty((*x.shape[:-1], self.columns))
        size = x.element_size()
        for first in range(0, vectors, MAX_DECODE_VECTORS):
            call = self.find_uncounted_call(min(MAX_DECODE_VECTORS, vectors - first)).run
            call(x.data_ptr() + first * self.rows * size, 0, out.data_ptr() + first * self.columns * size)
        return out

    def multiply_with_library(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply with PyTorch, without counting the call.

        PyTorch's product of float16 matrices takes ten times as long if the rows belong to inputs. So parts of the
        matrix are converted to float32, which is also faster than the product of float16 matrices in either layout.
        The same holds for many vectors in bfloat16, if the processor cannot multiply bfloat16.

        Args:
            x: Vectors, shape [..., rows].

        Returns:
            The product, shape [..., columns].
        """
        if not self._is_converted(x.numel() // self.rows):
            return linear(x, self.weight.t(), self.bias)
        out = x.new_empty((*x.shape[:-1], self.columns))
        wide_x = x.float()
        columns = max(1, CHUNK_ENTRIES // self.rows)
        for first in range(0, self.columns, columns):
            part = slice(first, first + columns)
            bias = self._bias
            if bias is not None:
                bias = bias[part].float()
            out[..., part] = linear(wide_x, self.weight[:, part].float().t(), bias)
        return out

    def _is_converted(self, vectors: int) -> bool:
        """Return True if the product of a number of vectors is computed in float32."""
        if self.weight.dtype is torch.bfloat16:
            return vectors >= MIN_CONVERTED_VECTORS and not multiplies_bfloat16()
        return self.weight.dtype is torch.float16

    def kernel(self, vectors: int) -> ProductKernel:
        """Return the compiled kernel for a number of vectors.

        Args:
            vectors: Number of vectors.
        """
        return compile_kept_inputs(self.weight.dtype, 1 << (vectors - 1).bit_length())

    def tile(self, threads: int, vectors: int) -> int:
        """Return the number of columns that a thread claims in one part of the matrix.

        These are all columns, unless the sums exceed `SUMS_PER_TILE`, or the threads cannot share the parts evenly.

        Args:
            threads: Number of threads.
            vectors: Number of vectors.
        """
        multiple = threads // math.gcd(threads, PARTS)
        tiles = -(-self.columns * vectors // (SUMS_PER_TILE * multiple)) * multiple
        return -(-self.columns // (tiles * COLUMN_MULTIPLE)) * COLUMN_MULTIPLE


class KeptOutputs(CpuProduct):
    """The product that skips outputs: see `sparsedial.acceleration.backend.KeptOutputProduct`.

    Args:
        weight: The matrix, one row per output, shape [rows, columns].
        bias: Shape [rows], or None.
        limits: When the whole matrix is read instead.
    """

    def __call__(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Multiply a few vectors, shape [..., columns], for the outputs of a mask, shape [..., rows].

        Args:
            x: Vectors, shape [..., width].
            kept: Boolean mask of the outputs to compute, shape [..., rows].
        """
        out = x.new_empty((*x.shape[:-1], self.rows))
        if self.call_for(x.numel() // self.columns)(x.data_ptr(), kept.data_ptr(), out.data_ptr()):
            return out
        return linear(x, self.weight, self.bias) * kept

    def kernel(self, vectors: int) -> ProductKernel:
        """Return the compiled kernel, which is the same for all numbers of vectors.

        Args:
            vectors: Number of vectors.
        """
        return compile_kept_outputs(self.weight.dtype)

    def tile(self, threads: int, vectors: int) -> int:
        """Return the number of rows that a thread claims.

        Args:
            threads: Number of threads.
            vectors: Number of vectors.
        """
        return ROWS_PER_TILE


class AllOutputs(CpuProduct):
    """The product that reads the whole matrix: see `sparsedial.acceleration.backend.DenseProduct`.

    Args:
        weight: The matrix, one row per output, shape [rows, columns].
        bias: Shape [rows], or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias, ProductLimits())
        self._all_rows = _list_all_rows(self.rows)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply a few vectors, shape [..., columns].

        Args:
            x: Vectors, shape [..., width].
        """
        out = x.new_empty((*x.shape[:-1], self.rows))
        self.find_uncounted_call(x.numel() // self.columns).run(x.data_ptr(), 0, out.data_ptr())
        return out

    def kernel(self, vectors: int) -> ProductKernel:
        """Return the compiled kernel, which is the same for all numbers of vectors.

        Args:
            vectors: Number of vectors.
        """
        return compile_all_outputs(self.weight.dtype)

    def tile(self, threads: int, vectors: int) -> int:
        """Return the number of rows that a thread claims.

        Args:
            threads: Number of threads.
            vectors: Number of vectors.
        """
        return ROWS_PER_TILE

    def _make_call(self, vectors: int, threads: int, limit: int) -> ProductCall:
        call = super()._make_call(vectors, threads, limit)
        call.record["indices_address"] = self._all_rows.ctypes.data
        call.record["kept"] = self.rows
        return call


@functools.cache
def _list_all_rows(rows: int) -> np.ndarray:
    """Return the indices of all rows, with the additional entry that a list of rows has. Products share the memory."""
    return np.arange(rows + 1, dtype=np.int64)
