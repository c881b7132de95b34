"""Counts of the calls that ran without the rule, because the rule and the kernel would have taken longer."""

from __future__ import annotations

import torch

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, ProductCounts


class DenseCalls:
    """Counts the calls of one matrix that ran without the rule.

    A replay of a CUDA graph does not run the code of the host, so a call that is captured is counted on the device.

    Args:
        weight: The matrix, one row per input.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight
        self._eager = [0] * MAX_DECODE_VECTORS
        self._captured: torch.Tensor | None = None
        if weight.is_cuda:
            self._captured = torch.zeros(MAX_DECODE_VECTORS, dtype=torch.int64, device=weight.device)

    def add(self, vectors: int) -> None:
        """Count one call.

        Args:
            vectors: Number of its vectors.
        """
        if self._captured is not None and torch.cuda.is_current_stream_capturing():
            self._captured[vectors - 1].add_(1)
        else:
            self._eager[vectors - 1] += 1

    def counts(self) -> ProductCounts:
        """Return the counts since the last reset. All entries of the vectors count as kept."""
        calls = list(self._eager)
        if self._captured is not None:
            calls = [a + b for a, b in zip(calls, self._captured.tolist(), strict=True)]
        total = sum(calls)
        rows, columns = self._weight.shape
        entries = rows * sum(count * (index + 1) for index, count in enumerate(calls))
        row_bytes = columns * self._weight.element_size()
        return ProductCounts(total, total, total * rows, total * rows, entries, entries, row_bytes)

    def reset(self) -> None:
        """Set the counts to zero."""
        self._eager = [0] * MAX_DECODE_VECTORS
        if self._captured is not None:
            self._captured.zero_()
