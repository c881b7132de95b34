"""Counts of how often CUDA graphs were replayed: one kernel per graph, whatever it computes.

A replay does not run the code of the host, so the device counts it, and the host remembers what the graph contains. For
this it has to know which capture a call belongs to. CUDA numbers the captures of a process: the number of a
`torch.cuda.CUDAGraph` changes if it is captured again, and its conditional parts have numbers of their own.
"""

from __future__ import annotations

import importlib
from functools import cache
from threading import Lock
from typing import Any

import torch

MAX_CAPTURES = 4096  # on one device: memory that a graph uses cannot be allocated during its capture


class ReplayCounter:
    """Counts the replays of the CUDA graphs of a device.

    Args:
        device: The device.
        max_captures: Number of graphs that there is room for. Defaults to `MAX_CAPTURES`.
    """

    def __init__(self, device: torch.device, max_captures: int = MAX_CAPTURES) -> None:
        with torch.inference_mode(False):
            self._replays = torch.zeros(max_captures, dtype=torch.int64, device=device)
        self._indices: dict[int, int] = {}  # by the number of the capture
        self._lock = Lock()

    def find_graph(self, capture: int) -> int | None:
        """Return the index of the graph that is being captured in the result of `read`.

        The first call of a capture adds a kernel to its graph.

        Args:
            capture: Number of the capture.

        Returns:
            The index. None if there is no room left.
        """
        graph = self._indices.get(capture)
        if graph is not None:
            return graph
        with self._lock:
            graph = len(self._indices)
            if graph == self._replays.numel():
                return None
            self._replays[graph].add_(1)
            self._indices[capture] = graph
        return graph

    def read(self) -> list[int]:
        """Return the number of replays of each captured graph, after the work of the current stream."""
        return self._replays[: len(self._indices)].tolist()


@cache
def get_replay_counter(device: torch.device) -> ReplayCounter:
    """Return the counter of a device, which is never freed: graphs may outlive the models that they were captured from.

    Args:
        device: The device.
    """
    if device.type == "cuda":
        _load_runtime()  # an import takes long, and is better not part of a capture
    return ReplayCounter(device)


def is_capturing(device: torch.device) -> bool:
    """Return True if the calls on a device are captured in a CUDA graph and not run.

    Args:
        device: The device, with its index.
    """
    if device.type != "cuda":
        return False
    if device.index == torch.cuda.current_device():
        return torch.cuda.is_current_stream_capturing()
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def find_capture(device: torch.device) -> int | None:
    """Return the number of the capture that is running on a device.

    Args:
        device: A CUDA device.

    Returns:
        The number. None if nothing is captured, or if it cannot be found out.
    """
    runtime = _load_runtime()
    if runtime is None:
        return None
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        error, status, number, *_ = runtime.cudaStreamGetCaptureInfo(stream)
    is_active = status == runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusActive
    if error != runtime.cudaError_t.cudaSuccess or not is_active:
        return None
    return int(number)


@cache
def _load_runtime() -> Any:
    """Return NVIDIA's bindings of the CUDA runtime, which PyTorch's packages for Linux require, or None."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return None
