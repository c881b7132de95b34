"""Experts whose sparsity differs from that of the other experts of their layer."""

from __future__ import annotations

import numpy as np

OUTLIER_Z = 3.0
"""An expert is an outlier if it lies further than this many robust standard deviations from its layer's median."""
MIN_EXPERTS_FOR_OUTLIERS = 5
"""Outliers are determined only in layers with at least this many experts that have data."""
MIN_TOKENS_FOR_OUTLIERS = 50
"""An expert is compared with the other experts of its layer only if it received at least this many tokens."""
MAD_TO_STANDARD_DEVIATION = 1.4826
"""Factor that converts the median absolute deviation of a normal distribution to its standard deviation."""


def expert_z_scores(sparsity: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the robust z of each expert of a layer. It is 0 for experts with few tokens, if token counts are known.

    Args:
        sparsity: Sparsity of the experts, shape [experts]. NaN for experts without tokens.
        tokens: Number of tokens of the experts, shape [experts]. All 0 if they are not known.
    """
    if tokens.any():
        sparsity = np.where(tokens < MIN_TOKENS_FOR_OUTLIERS, np.nan, sparsity)
    return robust_z(sparsity)


def robust_z(values: np.ndarray) -> np.ndarray:
    """Return how many robust standard deviations each value lies from the median.

    The robust standard deviation is 1.4826 times the median absolute deviation.

    Args:
        values: Float ``[N]``, NaN where there is no data.

    Returns:
        Float ``[N]``. 0 where the value is NaN. All 0 if there are fewer than `MIN_EXPERTS_FOR_OUTLIERS` values, or if
        the median absolute deviation is 0.

    Example:
        >>> robust_z(np.array([0.4, 0.41, 0.39, 0.42, 0.38, 0.9])).round(1).tolist()
        [-0.2, 0.2, -0.7, 0.7, -1.1, 22.3]
    """
    known = values[~np.isnan(values)]
    if len(known) < MIN_EXPERTS_FOR_OUTLIERS:
        return np.zeros(len(values))
    median = np.median(known)
    spread = MAD_TO_STANDARD_DEVIATION * np.median(np.abs(known - median))
    if spread <= 0:
        return np.zeros(len(values))
    return np.nan_to_num((values - median) / spread)
