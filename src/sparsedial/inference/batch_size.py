"""The number of rows per forward pass: a default for each type of device, halved whenever memory runs out.

An evaluation that runs out of memory is repeated from its start, so that all of its forward passes have the same
maximum size and nothing is counted twice. Batches are sorted by length, longest first, so memory usually runs out in
the first one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

CPU_ROWS = 8
"""Default number of rows on a CPU, where larger batches are not faster for every model."""

ACCELERATOR_ROWS = 64
"""Default number of rows on any other device."""

MEMORY_ERROR_TEXTS = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of the messages of torch's RuntimeErrors which mean that memory ran out."""


def default_rows(device: torch.device) -> int:
    """Return the number of rows per forward pass that an evaluation starts with if the user gives no number.

    Args:
        device: Device of the model.
    """
    return CPU_ROWS if device.type == "cpu" else ACCELERATOR_ROWS


def is_memory_error(error: Exception) -> bool:
    """Return True if an error means that memory ran out, which torch reports as a RuntimeError on the CPU.

    Args:
        error: Any error.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MEMORY_ERROR_TEXTS)


def free_memory() -> None:
    """Free the memory of objects that are no longer in use. Call it outside of ``except`` blocks.

    Inside of an ``except`` block, the traceback still refers to tensors.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def count_free_bytes(device: torch.device) -> int | None:
    """Return the memory that can still be allocated on a device, in bytes, or None if it is unknown.

    Args:
        device: The device.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "cpu":
        try:
            lines = Path("/proc/meminfo").read_text().splitlines()
        except OSError:
            return None
        for line in lines:
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return None


class FittingBatch:
    """Number of rows per forward pass that fits into memory. Later evaluations start with the number that was found.

    Args:
        rows: Number of rows to start with.
        log: Called with a message whenever memory runs out. Defaults to None.

    Attributes:
        rows: Number of rows of the last evaluation.
    """

    def __init__(self, rows: int, log: Callable[[str], None] | None = None) -> None:
        self.rows = rows
        self._log = log

    def run(self, evaluate: Callable[[int], T]) -> T:
        """Run an evaluation, again with half of the rows whenever memory runs out.

        Args:
            evaluate: Function of the number of rows. It may be called several times.

        Returns:
            The result of the call that did not run out of memory.

        Raises:
            Exception: Memory runs out with one row, or ``evaluate`` raises another error.

        Example:
            >>> def evaluate(rows):
            ...     if rows > 4:
            ...         raise MemoryError
            ...     return rows
            >>> FittingBatch(16, print).run(evaluate)
            out of memory with 16 rows per forward pass: trying 8
            out of memory with 8 rows per forward pass: trying 4
            4
        """
        while True:
            try:
                return evaluate(self.rows)
            except Exception as error:
                if self.rows == 1 or not is_memory_error(error):
                    raise
            free_memory()
            smaller = self.rows // 2
            if self._log is not None:
                self._log(f"out of memory with {self.rows} rows per forward pass: trying {smaller}")
            self.rows = smaller
