"""Retention: how much of the dense score a sparse model keeps, and whether that is enough.

The definition depends on the direction of the metric (docs/retention.md):

- Higher is better, for example accuracy: the sparse score divided by the dense score.
- Lower is better, for example perplexity, a loss or an error rate: the dense score divided by the sparse score.

Both are ratios, so they need scores that are not negative and a dense score above 0. `make_curve` refuses other scores.
"""

from __future__ import annotations

import numpy as np

ROUNDING_TOLERANCE = 256 * float(np.finfo(np.float64).eps)
"""Largest relative error of a retention by rounding, 5.7e-14.

Scores are sums of up to about 10^5 numbers, whose rounding errors stay below it. Two different ratios of counts below
10^6 differ by more than 10^-12.
"""

MAX_RETENTION = 1000.0
"""Highest retention of a metric of which lower is better. A sparse score of 0 has this retention."""


def compute_retention(dense: np.ndarray | float, sparse: np.ndarray, higher_is_better: bool = True) -> np.ndarray:
    """Return the share of the dense score that is kept.

    Args:
        dense: Dense scores, in a shape that can be broadcast to that of ``sparse``.
        sparse: Sparse scores, at least 0, shape [...].
        higher_is_better: Direction of the metric. Defaults to True.

    Returns:
        ``sparse / dense`` if higher is better. ``dense / sparse`` if lower is better, at most `MAX_RETENTION`. Shape
        [...], float64. NaN where the dense score is not above 0.

    Example:
        >>> compute_retention(0.50, np.array([0.50, 0.49])).tolist()
        [1.0, 0.98]
        >>> compute_retention(20.0, np.array([20.0, 25.0]), higher_is_better=False).tolist()
        [1.0, 0.8]
    """
    positive_dense = np.where(np.asarray(dense) > 0, dense, np.nan)
    if higher_is_better:
        return np.asarray(sparse / positive_dense)
    return np.asarray(positive_dense / np.maximum(sparse, positive_dense / MAX_RETENTION))


def is_kept(retention: np.ndarray, retain: float) -> np.ndarray:
    """Return whether retention is at least the required share, without regard to rounding errors.

    Every comparison of a retention with the required share uses this function. Without the tolerance, 495 / 600
    compared with 500 / 600 would fall below 0.99.

    Args:
        retention: Retentions, shape [...].
        retain: The required share, in (0, 1].

    Returns:
        True where the retention is at least ``retain * (1 - ROUNDING_TOLERANCE)``, shape [...]. False for NaN.

    Example:
        >>> retention = compute_retention(500 / 600, np.array([495 / 600, 494 / 600]))
        >>> bool(retention[0] >= 0.99), is_kept(retention, 0.99).tolist()
        (False, [True, False])
    """
    return np.asarray(retention >= retain * (1 - ROUNDING_TOLERANCE))
