"""Memory for the counts that the kernels write."""

from __future__ import annotations

import torch

MAX_POOLED_CALLS = 64  # calls whose counts share one allocation


class CountBufferPool:
    """Pool of memory for counts, which is allocated for several calls at a time.

    In a decode step, one allocation per call would take a large part of the time of the call. The size of an allocation
    grows with the number of equal calls in a row: it is large enough for as many calls as there were equal ones before,
    at most `MAX_POOLED_CALLS`.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._kind: tuple[int, torch.device, int | None] | None = None  # number of vectors, device, CUDA stream
        self._equal_calls = 0

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """Return memory for the counts of one call.

        Args:
            x: Vectors of the call, shape [..., D].

        Returns:
            Uninitialised int32 tensor with one entry per vector of ``x``, one-dimensional, on its device.
        """
        vectors = x.numel() // (x.size(-1) or 1)
        # The allocator reuses freed memory on the stream that allocated it, so streams must not share buffers.
        stream = torch._C._cuda_getCurrentRawStream(x.get_device()) if x.is_cuda else None
        kind = (vectors, x.device, stream)
        if kind != self._kind:
            self._kind = kind
            self._buffers = []
            self._equal_calls = 0
        self._equal_calls += 1
        if not self._buffers:
            calls = min(self._equal_calls, MAX_POOLED_CALLS)
            self._buffers = list(x.new_empty((calls, vectors), dtype=torch.int32).unbind())
        return self._buffers.pop()
