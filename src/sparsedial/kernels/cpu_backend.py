"""The CPU backend: runs the kernels of `sparsedial.kernels.cpu_numba` on the vectors of a tensor.

Threads come from torch's own OpenMP runtime, so no second thread pool competes with it.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sparsedial.kernels.cpu_numba import (
    COUNTS,
    DECODE_SLOT,
    BatchArguments,
    compile_batch_kernel,
    compile_decode_kernel,
    scratch_words,
)
from sparsedial.kernels.rule_codes import RULE_CODES
from sparsedial.rules import Rule

MAX_SERIAL_ENTRIES = 32768  # up to this size, waking the other threads costs more time than they save


@functools.cache
def find_openmp_parallel() -> Any:
    """Return ``GOMP_parallel`` of the OpenMP runtime that torch has loaded, or None if there is none.

    Returns:
        A ctypes function. Its arguments are the address of the function to run on each thread, the argument of that
        function, the number of threads, and flags.
    """
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


def select(
    x: torch.Tensor, rule: Rule, kept: torch.Tensor | None = None, warm_start: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a rule to each vector of a CPU tensor, with the result of `sparsedial.kernels.reference.select`.

    Args:
        x: Vectors, shape [..., D], float32, bfloat16, float16 or float64.
        rule: The rule.
        kept: Memory for the counts, shape [...], int32 and contiguous; new memory by default.
        warm_start: Ignored. Within a call, each search of a thread starts at the threshold of its previous one.

    Returns:
        The sparse vectors, shape [..., D], and the number of entries kept in each, shape [...], int32.
    """
    kernel_address, kernel = compile_batch_kernel(x.dtype)
    x = x.contiguous()
    y = torch.empty_like(x)
    shape = x.shape
    if kept is None:
        kept = x.new_empty(shape[:-1], dtype=torch.int32)
    size = x.numel()
    if size == 0:
        return y, kept.zero_()
    width = shape[-1]
    arguments = BatchArguments(
        x.data_ptr(), y.data_ptr(), kept.data_ptr(), size // width, width, RULE_CODES[rule.name], rule.value
    )
    arguments_address = ctypes.addressof(arguments)
    threads = torch.get_num_threads() if size > MAX_SERIAL_ENTRIES and size > width else 1
    if threads == 1:
        kernel(arguments_address)
    else:
        _run_on_threads(kernel_address, kernel, arguments_address, threads)
    return y, kept


def _run_on_threads(kernel_address: int, kernel: Callable[[int], None], arguments_address: int, threads: int) -> None:
    """Run the batch kernel on threads of the OpenMP runtime, or on Python threads if there is none."""
    parallel = find_openmp_parallel()
    if parallel is not None:
        parallel(kernel_address, arguments_address, threads, 0)
        return
    workers = [threading.Thread(target=kernel, args=(arguments_address,)) for _ in range(threads - 1)]
    for worker in workers:
        worker.start()
    kernel(arguments_address)
    for worker in workers:
        worker.join()


class DecodeSlots:
    """Memory of the decode kernel: one slot for each vector of the model to which the rule is applied.

    Reading the model's weights in a decode step evicts all other data from the processor's caches, so a call is faster
    the less memory it reads. Each slot therefore stores its arguments in one record, starts its search at its previous
    threshold, and adds up its own counts. Each forward pass of the model is one round. `commit` ends a round and keeps
    its counts, and `rollback` discards the counts of a round that failed.

    Args:
        widths: Number of entries of each slot's vectors.
        rule: The rule.

    Example:
        >>> from sparsedial.rules import TopP
        >>> slots = DecodeSlots([4], TopP(0.7))
        >>> x = torch.tensor([[4.0, -3.0, 2.0, 1.0]])
        >>> y = torch.empty_like(x)
        >>> slots.slot_function(0, x.dtype)(x.data_ptr(), y.data_ptr())
        >>> slots.commit()
        >>> y
        tensor([[ 4., -3.,  0.,  0.]])
        >>> slots.drain()
        array([[2, 4, 0]])
    """

    def __init__(self, widths: Sequence[int], rule: Rule) -> None:
        self._current_round = ctypes.c_int64(1)
        self._scratch = np.empty(scratch_words(max(widths)))
        self._slots = np.zeros(len(widths), DECODE_SLOT)
        self._slots["width"] = widths
        self._slots["rule_code"] = RULE_CODES[rule.name]
        self._slots["rule_value"] = rule.value
        self._slots["scratch_address"] = self._scratch.ctypes.data
        self._slots["current_round_address"] = ctypes.addressof(self._current_round)

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """Replace the rule of each slot. It holds for the next call of the slot's function.

        Args:
            rules: One rule per slot.
        """
        for slot, rule in enumerate(rules):
            self._slots["rule_code"][slot] = RULE_CODES[rule.name]
            self._slots["rule_value"][slot] = rule.value

    def slot_function(self, slot: int, dtype: torch.dtype) -> Callable[[int, int], None]:
        """Return a function that applies the rule to one vector of a slot.

        The function does not check its arguments. It is valid only while this object is alive, so the caller must keep
        a reference to the object.

        Args:
            slot: Index of the slot in ``widths``.
            dtype: Dtype of the vector.

        Returns:
            A function of two addresses: that of a contiguous vector in CPU memory, and that of the result.
        """
        return functools.partial(compile_decode_kernel(dtype), self.slot_address(slot))

    def slot_address(self, slot: int) -> int:
        """Return the address of a slot's record, which is the first argument of the decode kernel.

        Args:
            slot: Index of the slot in ``widths``.
        """
        return int(self._slots.ctypes.data + slot * DECODE_SLOT.itemsize)

    def commit(self) -> None:
        """End the current round and keep its counts."""
        self._current_round.value += 1

    def rollback(self) -> None:
        """Discard the counts of the current round."""
        self._slots["pending"][self._slots["round"] == self._current_round.value] = 0

    def drain(self) -> np.ndarray:
        """Return the counts of the rounds that have ended, and reset them.

        Counts of the current round are returned by a later call, after the round has ended.

        Returns:
            Dropped entries, total entries and non-finite vectors of each slot, shape [slots, 3], int64.
        """
        has_ended = self._slots["round"] != self._current_round.value
        counts = np.empty((len(self._slots), len(COUNTS.fields or ())), np.int64)
        for column, name in enumerate(COUNTS.names or ()):
            committed = self._slots["committed"][name]
            pending = self._slots["pending"][name]
            counts[:, column] = committed + pending * has_ended
            committed[:] = 0
            pending[has_ended] = 0
        return counts
