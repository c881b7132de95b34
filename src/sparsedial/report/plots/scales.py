"""Scales of chart axes, with round ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
LOG_STEPS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0))
"""Choices of the ticks within a factor of ten, from few to many."""


@dataclass(frozen=True)
class Scale:
    """A map from numbers to pixels.

    Attributes:
        low: Number at ``start``.
        high: Number at ``end``. Larger than ``low``.
        start: Position in pixels.
        end: Position in pixels.
        is_log: True for a logarithmic scale, whose numbers are positive. Defaults to False.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a number in pixels.

        Args:
            value: The number.

        Example:
            >>> Scale(0.0, 2.0, 100.0, 0.0)(0.5)
            75.0
        """
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def contains(self, value: float) -> bool:
        """Return True if a number lies between both ends of the scale.

        Args:
            value: The number.
        """
        return self.low <= value <= self.high

    def ticks(self, count: int = 5) -> list[float]:
        """Return round numbers on the scale.

        Args:
            count: Largest number of ticks, at least 2.
        """
        if self.is_log:
            return _log_ticks(self.low, self.high, count)
        return linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Return round numbers between two numbers.

    Args:
        low: Lower end.
        high: Upper end.
        count: Largest number of ticks, at least 2.

    Example:
        >>> linear_ticks(0.0, 0.62, 5)
        [0.0, 0.2, 0.4, 0.6]
    """
    rough = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    for step in STEPS:
        width = step * magnitude
        first = math.ceil(low / width - 1e-9)
        last = math.floor(high / width + 1e-9)
        if last - first < count:
            break
    return [round(index * width, 12) for index in range(first, last + 1)]


def integer_ticks(low: float, high: float, count: int) -> list[float]:
    """Return whole numbers between two numbers.

    Args:
        low: Lower end.
        high: Upper end.
        count: Largest number of ticks, at least 2.
    """
    if high == low:
        return [low]
    return [tick for tick in linear_ticks(low, high, count) if float(tick).is_integer()]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """Return round numbers, as many as fit."""
    ticks: list[float] = []
    for steps in LOG_STEPS:
        candidates: list[float] = []
        for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
            decade = 10.0**exponent
            candidates += [step * decade for step in steps if low <= step * decade <= high]
        if ticks and len(candidates) > count:
            break
        ticks = candidates[:: max(1, -(-len(candidates) // count))]
    return ticks or [math.sqrt(low * high)]
