"""Counts of the calls that ran without the rule, because the rule and the kernel would have taken longer."""

from __future__ import annotations

import torch

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, ProductCounts
from sparsedial.acceleration.graph_replays import find_capture, get_replay_counter, is_capturing


class DenseCalls:
    """Counts the calls of one matrix that ran without the rule.

    A replay of a CUDA graph does not run the code of the host. The calls in a graph are therefore counted when they are
    captured, and multiplied by its replays, which the device counts for all matrices together. If the capture is not
    known, each call is counted on the device.

    Args:
        weight: The matrix, one row per input.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight
        self._device = weight.device
        self._replay_counter = get_replay_counter(self._device)
        self._eager = _no_calls()
        self._captured: dict[int, list[int]] = {}  # by index of the graph: calls per replay
        self._earlier_replays: dict[int, int] = {}  # by index of the graph: replays before the last reset
        with torch.inference_mode(False):
            self._on_device = torch.zeros(MAX_DECODE_VECTORS, dtype=torch.int64, device=self._device)
        self._uses_device = False

    def add(self, vectors: int) -> None:
        """Count one call.

        Args:
            vectors: Number of its vectors.
        """
        if is_capturing(self._device):
            self._add_captured(vectors)
        else:
            self._eager[vectors - 1] += 1

    def counts(self) -> ProductCounts:
        """Return the counts since the last reset. All entries of the vectors count as kept."""
        calls = self._count_calls()
        total = sum(calls)
        rows, columns = self._weight.shape
        entries = rows * sum(count * (index + 1) for index, count in enumerate(calls))
        row_bytes = columns * self._weight.element_size()
        return ProductCounts(total, total, total * rows, total * rows, entries, entries, row_bytes)

    def reset(self) -> None:
        """Set the counts to zero."""
        self._eager = _no_calls()
        if self._captured:
            replays = self._replay_counter.read()
            self._earlier_replays = {graph: replays[graph] for graph in self._captured}
        if self._uses_device:
            self._on_device.zero_()

    def _add_captured(self, vectors: int) -> None:
        graph = None
        capture = find_capture(self._device)
        if capture is not None:
            graph = self._replay_counter.find_graph(capture)
        if graph is None:
            self._uses_device = True
            self._on_device[vectors - 1].add_(1)
        else:
            self._captured.setdefault(graph, _no_calls())[vectors - 1] += 1

    def _count_calls(self) -> list[int]:
        """Return the number of calls since the last reset, one entry per number of vectors."""
        total = self._eager
        if self._uses_device:
            total = _add(total, self._on_device.tolist(), 1)
        if self._captured:
            replays = self._replay_counter.read()
            for graph, calls in self._captured.items():
                total = _add(total, calls, replays[graph] - self._earlier_replays.get(graph, 0))
        return total


def _no_calls() -> list[int]:
    return [0] * MAX_DECODE_VECTORS


def _add(total: list[int], calls: list[int], times: int) -> list[int]:
    return [a + b * times for a, b in zip(total, calls, strict=True)]
