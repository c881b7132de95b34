"""Timing for all benchmarks: calls are timed in turns, so that other work on the machine disturbs all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Call = Callable[[], Any]
READ_BYTES = 1 << 29  # more than any cache holds


def synchronize() -> None:
    """Wait until the GPU has finished, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_call(call: Call, repeats: int = 1) -> float:
    """Return the seconds that one call takes, with the GPU idle before and after.

    Args:
        call: What to time.
        repeats: Number of calls to run back to back. Default: 1.

    Returns:
        Seconds per call.
    """
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - start) / repeats


def time_in_turns(calls: Mapping[str, Call], seconds: float, minimum: int = 3) -> dict[str, list[float]]:
    """Time several calls in turns, after one untimed call of each.

    Args:
        calls: What to time, by name.
        seconds: Time to spend.
        minimum: Number of times that each call is timed at least. Default: 3.

    Returns:
        The seconds of each call, by name; index i of all lists belongs to the same turn.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    stop = time.perf_counter() + seconds
    turns = 0
    while turns < minimum or time.perf_counter() < stop:
        for name, call in calls.items():
            times[name].append(time_call(call))
        turns += 1
    return times


def median_seconds(calls: Mapping[str, Call], seconds: float, minimum: int = 3) -> dict[str, float]:
    """Return the median seconds of each call, timed in turns; see `time_in_turns`."""
    return {name: statistics.median(times) for name, times in time_in_turns(calls, seconds, minimum).items()}


def measure_read_rate(clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the rate in GB/s at which PyTorch adds up memory that is not in a cache: the best of nine."""
    memory = torch.ones(READ_BYTES // 4)
    seconds = []
    for _ in range(9):
        start = clock()
        memory.sum()
        seconds.append(clock() - start)
    return READ_BYTES / min(seconds) / 1e9
