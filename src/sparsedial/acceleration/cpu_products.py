"""The products of the CPU, which call the kernels of `sparsedial.acceleration.cpu_kernels`.

A decode step calls a product a hundred times, so a call writes no record: there is one record per product and number
of vectors, and each keeps its own counts. The records share their scratch memory, because a kernel holds the global
interpreter lock.
"""

from __future__ import annotations

import ctypes
import functools
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding
import numpy as np
import torch
from torch.nn.functional import linear

from sparsedial.acceleration.backend import (
    MAX_DECODE_VECTORS,
    ProductCounts,
    ProductLimits,
    Selector,
)
from sparsedial.acceleration.cpu_kernels import (
    PARTS,
    PRODUCT,
    ProductKernel,
    compile_all_outputs,
    compile_kept_inputs,
    compile_kept_outputs,
)
from sparsedial.acceleration.weight_layout import CACHE_LINE_BYTES
from sparsedial.kernels.cpu_backend import find_openmp_parallel
from sparsedial.kernels.dispatch import BoundRule

SUMS_PER_TILE = 48 * 1024  # they fit into the second-level cache, and rows are read in long pieces
ROWS_PER_TILE = 64  # rows whose dot products a thread computes at a time
COLUMN_MULTIPLE = 32  # sums of one step of a kernel, in whole cache lines
MIN_PARALLEL_BYTES = 1 << 18  # below this size, waking the other threads costs more time than they save
COUNTS = ("calls", "dense_calls", "rows_read", "kept_entries", "entries")  # names in a record
CHUNK_ENTRIES = 1 << 20  # entries of a 16-bit matrix that are converted to float32 at a time
MIN_CONVERTED_VECTORS = 64  # for fewer vectors, the conversion takes longer than the product

KernelCall = Callable[[int, int, int], bool]
"""Function of the addresses of x, of the mask (or 0) and of the result. False if the result was not written."""


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


class ProductCall(NamedTuple):
    """A kernel that is bound to a record, and the record, which has to stay in memory."""

    run: KernelCall
    record: np.ndarray
    kernel: ProductKernel


class _Product:
    """The records of one product, one per number of vectors and of threads."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, limits: ProductLimits) -> None:
        self.weight = weight
        self.bias = bias
        self.rows, self.columns = weight.shape
        self.limits = limits
        self._bias = bias
        if bias is not None:
            self._bias = bias.detach().to(weight.dtype).contiguous()  # no copy if it has this dtype
        self._counted: dict[tuple[int, int], ProductCall] = {}
        self._uncounted: dict[tuple[int, int, int], ProductCall] = {}

    def call_for(self, vectors: int) -> KernelCall:
        """Return the kernel for a number of vectors, which counts its calls.

        Args:
            vectors: Number of vectors.
        """
        return self.find_call(vectors).run

    def find_call(self, vectors: int) -> ProductCall:
        """Return the kernel for a number of vectors, which counts its calls, with its record.

        Args:
            vectors: Number of vectors.
        """
        key = (vectors, torch.get_num_threads())
        if key not in self._counted:
            self._counted[key] = self._make_call(*key, int(self.limits.largest_share[vectors - 1] * self.rows))
        return self._counted[key]

    def find_uncounted_call(self, vectors: int, limit: int | None = None) -> ProductCall:
        """Return the kernel for a number of vectors. Its calls are not among the counts.

        Args:
            vectors: Number of vectors.
            limit: Number of kept rows above which the result is not written. Defaults to None: there is no limit.
        """
        if limit is None:
            limit = self.rows
        key = (vectors, torch.get_num_threads(), limit)
        if key not in self._uncounted:
            self._uncounted[key] = self._make_call(*key)
        return self._uncounted[key]

    def _make_call(self, vectors: int, threads: int, limit: int) -> ProductCall:
        if self.weight.numel() * self.weight.element_size() < MIN_PARALLEL_BYTES or find_openmp_parallel() is None:
            threads = 1
        indices, values, sums = _scratch_memory(max(self.rows, self.columns))
        record = np.zeros(1, PRODUCT)
        record["weight_address"] = self.weight.data_ptr()
        record["row_bytes"] = self.weight.stride(0) * self.weight.element_size()
        record["rows"] = self.rows
        record["columns"] = self.columns
        if self._bias is not None:
            record["bias_address"] = self._bias.data_ptr()
        record["indices_address"] = indices.ctypes.data
        record["values_address"] = values.ctypes.data
        record["sums_address"] = sums.ctypes.data
        record["vectors"] = vectors
        record["limit"] = limit
        record["tile"] = self.tile(threads, vectors)
        record["threads"] = threads
        record["parallel_address"] = _parallel_address()
        kernel = self.kernel(vectors)
        return ProductCall(functools.partial(kernel.run, record.ctypes.data, kernel.worker), record, kernel)

    def kernel(self, vectors: int) -> ProductKernel:
        """Return the compiled kernel for a number of vectors.

        Args:
            vectors: Number of vectors.
        """
        raise NotImplementedError

    def tile(self, threads: int, vectors: int) -> int:
        """Return what a thread claims at a time.

        Args:
            threads: Number of threads.
            vectors: Number of vectors.
        """
        raise NotImplementedError

    def counts(self) -> ProductCounts:
        """Return the counts since the last reset."""
        totals = dict.fromkeys(COUNTS, 0)
        for call in self._counted.values():
            for name in COUNTS:
                totals[name] += int(call.record[name][0])
        row_bytes = self.columns * self.weight.element_size()
        return ProductCounts(rows=totals["calls"] * self.rows, row_bytes=row_bytes, **totals)

    def reset(self) -> None:
        """Set the counts to zero."""
        for call in self._counted.values():
            for name in COUNTS:
                call.record[name] = 0


class KeptInputs(_Product):
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
            return vectors >= MIN_CONVERTED_VECTORS and not _multiplies_bfloat16()
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


class KeptOutputs(_Product):
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


class AllOutputs(_Product):
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


@functools.cache
def _scratch_memory(width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return memory for a list of rows, for the entries of x and for sums, as `PRODUCT` describes it."""
    entries = MAX_DECODE_VECTORS * (width + 1)
    return np.empty(width + 1, np.int64), _allocate_lines(entries), _allocate_lines(PARTS * entries)


def _allocate_lines(entries: int) -> np.ndarray:
    """Return memory for float32 that begins with a cache line. A vector in two lines takes several times as long."""
    memory = np.empty(entries + CACHE_LINE_BYTES // 4, np.float32)
    first = -memory.ctypes.data % CACHE_LINE_BYTES // 4
    return memory[first : first + entries]


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Return True if the processor has instructions that multiply bfloat16, or if this is not known."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("avx512bf16") or features.get("amx-bf16"))


@functools.cache
def _parallel_address() -> int:
    parallel = find_openmp_parallel()
    if parallel is None:
        return 0
    return int(ctypes.cast(parallel, ctypes.c_void_p).value or 0)


def describe_processor() -> str:
    """Return the name of the processor and the number of threads."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name}, {torch.get_num_threads()} threads"
