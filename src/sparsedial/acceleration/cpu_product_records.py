"""The records that the product kernels of the CPU read, and their counts.

A decode step calls a product a hundred times, so a call writes no record: there is one record per product and number
of vectors, and each keeps its own counts. The records share their scratch memory, because a kernel holds the global
interpreter lock.
"""

from __future__ import annotations

import ctypes
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, ProductCounts, ProductLimits
from sparsedial.acceleration.cpu_kernels import PARTS, PRODUCT, ProductKernel
from sparsedial.acceleration.weight_layout import CACHE_LINE_BYTES
from sparsedial.kernels.cpu_backend import find_openmp_parallel

MIN_PARALLEL_BYTES = 1 << 18  # below this size, waking the other threads costs more time than they save
COUNTS = ("calls", "dense_calls", "rows_read", "kept_entries", "entries")  # names in a record

KernelCall = Callable[[int, int, int], bool]
"""Function of the addresses of x, of the mask (or 0) and of the result. False if the result was not written."""


class ProductCall(NamedTuple):
    """A kernel that is bound to a record, and the record, which has to stay in memory."""

    run: KernelCall
    record: np.ndarray
    kernel: ProductKernel


class CpuProduct(ABC):
    """A product with its records, one per number of vectors and of threads.

    Args:
        weight: The matrix, shape [rows, columns].
        bias: One entry per output, or None.
        limits: When the whole matrix is read instead.
    """

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

    @abstractmethod
    def kernel(self, vectors: int) -> ProductKernel:
        """Return the compiled kernel for a number of vectors.

        Args:
            vectors: Number of vectors.
        """

    @abstractmethod
    def tile(self, threads: int, vectors: int) -> int:
        """Return what a thread claims at a time.

        Args:
            threads: Number of threads.
            vectors: Number of vectors.
        """

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
def _parallel_address() -> int:
    parallel = find_openmp_parallel()
    if parallel is None:
        return 0
    return int(ctypes.cast(parallel, ctypes.c_void_p).value or 0)
