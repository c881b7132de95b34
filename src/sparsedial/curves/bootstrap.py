"""The paired bootstrap of a curve: examples are resampled, dense and sparse scores together."""

from __future__ import annotations

import numpy as np

from sparsedial.curves.curve import Curve

RESAMPLES = 2000


def resample_retention(
    measured: Curve, resamples: int = RESAMPLES, seed: int = 0, drop_undefined: bool = True
) -> np.ndarray:
    """Return the retention of each point in each bootstrap resample.

    The examples of each task are resampled separately.

    Args:
        measured: A curve with per-example scores.
        resamples: Number of resamples, B.
        seed: Random seed. Curves with the same number of examples and the same seed draw the same examples in each
            resample.
        drop_undefined: If True, drop the resamples whose dense score is not above 0, because their retention is
            undefined. If False, their rows are NaN. Default: True.

    Returns:
        Retention, shape [B, K], float64. There are fewer than B rows if resamples were dropped.
    """
    random = np.random.default_rng(seed)
    total = np.zeros((resamples, 1 + len(measured.sparsity)))
    for matrix in measured.examples:
        count = len(matrix)
        weights = random.multinomial(count, np.full(count, 1.0 / count), size=resamples) / count
        total += weights @ matrix
    dense = np.where(total[:, :1] > 0, total[:, :1], np.nan)
    retention = total[:, 1:] / dense
    if drop_undefined:
        return retention[np.isfinite(retention).all(1)]
    return retention
