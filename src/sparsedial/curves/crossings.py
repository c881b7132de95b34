"""Crossings of retention curves with the required retention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsedial.curves.retention import is_kept


@dataclass(frozen=True)
class Crossings:
    """Crossings of B curves that share the sparsity of their K points.

    Attributes:
        highest: Highest sparsity at which the curve has the required retention, shape [B].
        first: Lowest sparsity at which the curve falls below the required retention, shape [B]. The last sparsity if
            it never does.
        last_kept: Index of the last point that has the required retention, shape [B], integer. Index 0 is the dense
            point and index K the last measured point.
        points: Number of measured points, K.
    """

    highest: np.ndarray
    first: np.ndarray
    last_kept: np.ndarray
    points: int

    @property
    def is_right_censored(self) -> np.ndarray:
        """True for curves whose last point has the required retention, shape [B]."""
        return self.last_kept == self.points

    @property
    def keeps_at_no_point(self) -> np.ndarray:
        """True for curves without a measured point that has the required retention, shape [B]."""
        return self.last_kept == 0


def find_crossings(sparsity: np.ndarray, retention: np.ndarray, retain: float) -> Crossings:
    """Find where curves cross the required retention.

    Each curve is piecewise linear through (0, 1) and its points.

    Args:
        sparsity: Sparsity of the points, shape [K], ascending.
        retention: Retention of the points of each curve, shape [B, K].
        retain: The required retention, in (0, 1].

    Returns:
        The crossings of each curve.
    """
    sparsity_from_dense = np.concatenate([[0.0], sparsity])
    retention_from_dense = np.concatenate([np.ones((len(retention), 1)), retention], 1)
    last_point = retention_from_dense.shape[1] - 1
    keeps = is_kept(retention_from_dense, retain)
    last_kept = last_point - np.argmax(keeps[:, ::-1], 1)
    falls_below = (~keeps).any(1)
    before_first_fall = np.where(falls_below, np.argmax(~keeps, 1) - 1, last_point)

    return Crossings(
        highest=_interpolate_after(last_kept, sparsity_from_dense, retention_from_dense, retain),
        first=_interpolate_after(before_first_fall, sparsity_from_dense, retention_from_dense, retain),
        last_kept=last_kept,
        points=len(sparsity),
    )


def _interpolate_after(index: np.ndarray, sparsity: np.ndarray, retention: np.ndarray, retain: float) -> np.ndarray:
    """Interpolate the sparsity at which each curve crosses ``retain`` between the points ``index`` and ``index + 1``.

    If ``index`` is the last point, the sparsity of that point is returned.
    """
    row = np.arange(len(retention))
    following = np.minimum(index + 1, len(sparsity) - 1)
    fall = retention[row, index] - retention[row, following]
    surplus = np.maximum(retention[row, index] - retain, 0.0)  # a rounding error is no loss (`is_kept`)
    fraction = np.divide(surplus, fall, out=np.zeros(len(retention)), where=fall > 0)
    return sparsity[index] + fraction * (sparsity[following] - sparsity[index])
