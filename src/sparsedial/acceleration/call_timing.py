"""Times of calls that run in turns, on the CPU or in CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

REPEATS = 5


def time_in_turns(calls: Sequence[Callable[[], None]], device: torch.device) -> list[float]:
    """Return the shortest time of each call. Other work on the machine makes all other times longer.

    Args:
        calls: Functions, which are called in turns.
        device: The device on which they run.

    Returns:
        Seconds of each call.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return _repeat_in_turns([_capture_if_possible(call) for call in calls], _time_on_gpu)
    return _repeat_in_turns(calls, _time_on_host)


def _repeat_in_turns(
    calls: Sequence[Callable[[], None]], time_call: Callable[[Callable[[], None]], float]
) -> list[float]:
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(REPEATS):
        for index, call in enumerate(calls):
            times[index].append(time_call(call))
    return [min(values) for values in times]


def _time_on_host(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _time_on_gpu(call: Callable[[], None]) -> float:
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _capture(call: Callable[[], None]) -> Callable[[], None]:
    """Return a CUDA graph of a call, so that the time of the host does not count."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph.replay


def _capture_if_possible(call: Callable[[], None]) -> Callable[[], None]:
    """Return a CUDA graph of a call, or the call if it waits for the device, as a rule of the user may do."""
    try:
        return _capture(call)
    except RuntimeError:
        torch.cuda.synchronize()
        return call
