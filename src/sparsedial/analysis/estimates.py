"""Numbers that may be missing, and estimates with their 95% interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsedial.curves.critical import RIGHT_CENSORED

AT_CHANCE = "at chance"
"""Status of a row whose dense score cannot be told from chance. It has no critical sparsity."""

TOO_FEW_EXAMPLES = "too few examples"
"""Status of a row of which a task has fewer than two examples. It has no interval, so no critical sparsity is given."""

DEFAULT_PRECISION = 0.02
"""Half width, as a fraction of sparsity, that a 95% interval should have if the study requests no precision."""

EVERYTHING = 0.9995
"""Sparsity from which 100.0% is shown. There is no more beyond it, so it is no lower bound of anything."""

ESTIMATE = "estimate"
AT_LEAST = "at least"
UNDECIDED = "undecided"


def finite_number(value: object) -> float | None:
    """Return a value as a finite float, or None if it is missing or not a number.

    Args:
        value: Anything. None, NaN, ``<NA>``, infinities and text that is not a number count as missing.

    Returns:
        The finite float, or None.

    Example:
        >>> finite_number("0.5"), finite_number(float("nan")), finite_number(None)
        (0.5, None, None)
    """
    try:
        converted = float(value)  # type: ignore[arg-type]  # other types raise, which is handled below
    except (TypeError, ValueError):
        return None
    return converted if math.isfinite(converted) else None


@dataclass(frozen=True)
class Estimate:
    """An estimated fraction with its 95% interval.

    Attributes:
        value: The estimate. None if it is not known.
        low: Lower end of the interval. None if there is no interval.
        high: Upper end of the interval. None if there is no interval.
        is_lower_bound: True if the value is right-censored, so that the true value may be higher.
        is_high_censored: True if the upper end of the interval is only a lower bound.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    is_lower_bound: bool = False
    is_high_censored: bool = False

    @property
    def rank(self) -> float:
        """The value for comparisons: an unknown value ranks below all known ones."""
        return -1.0 if self.value is None else self.value


def read_estimate(row: Mapping[str, Any], value: str, low: str, high: str) -> Estimate:
    """Read an estimate from one row of the ``critical`` table.

    Args:
        row: The row, including its columns ``status`` and ``high_censored``.
        value: Name of the column with the estimate.
        low: Name of the column with the lower end of its interval.
        high: Name of the column with the upper end of its interval.

    Returns:
        The estimate. Missing numbers are None.
    """
    return Estimate(
        value=finite_number(row[value]),
        low=finite_number(row[low]),
        high=finite_number(row[high]),
        is_lower_bound=row["status"] == RIGHT_CENSORED,
        is_high_censored=is_true(row.get("high_censored")),
    )


def is_true(value: object) -> bool:
    """Return True if a table cell holds True. A missing cell counts as False.

    Args:
        value: The cell: a boolean, 0 or 1, or a missing value.

    Returns:
        True for True and 1.
    """
    return finite_number(value) == 1.0


def is_everything(share: float | None) -> bool:
    """Return True if a share is shown as 100.0%.

    Args:
        share: A fraction, or None.
    """
    return share is not None and share >= EVERYTHING


def choose_answer(estimate: Estimate, is_wide: bool) -> str:
    """Return which number answers how many activations can be dropped.

    Args:
        estimate: A critical sparsity.
        is_wide: True if its interval is wider than it should be.

    Returns:
        ``undecided`` if the lower end of the interval is 0, so that no point is shown to keep the score; ``at least``
        if the interval is wide, has no upper end or holds no estimate, so that only its lower end can be relied on;
        else ``estimate``.

    Example:
        >>> choose_answer(Estimate(0.2, 0.18, 0.21), False), choose_answer(Estimate(0.3, 0.18, 0.4), True)
        ('estimate', 'at least')
        >>> choose_answer(Estimate(0.3, 0.0, 0.4), True)
        'undecided'
    """
    if estimate.low is None:
        return ESTIMATE
    if estimate.low <= 0.0:
        return UNDECIDED
    if is_wide or estimate.is_high_censored or estimate.value is None:
        return AT_LEAST
    return ESTIMATE
