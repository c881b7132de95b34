"""Comparison of a dense score with the score of random choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsedial.curves.bootstrap import RESAMPLES, resample_scores

LOWEST_QUANTILE = 0.025
"""The dense score has to exceed chance in all but this share of the resamples."""


def is_at_chance(dense: Sequence[np.ndarray], chance: float, resamples: int = RESAMPLES, seed: int = 0) -> bool:
    """Return True if a dense score cannot be told from chance, so that there is nothing to retain.

    This is the case if the lower end of the score's 95% bootstrap interval is not above chance. With a chance of 0, it
    is the case for fewer than four correct answers.

    Args:
        dense: For each task, the dense scores of its N examples, shape [N], multiplied by the weight of the task.
            Higher is better.
        chance: Expected score of random choices: 1 / options for multiple choice, 0 for free answers.
        resamples: Number of bootstrap resamples.
        seed: Random seed of the bootstrap.

    Returns:
        True if the score is not above chance. A single example has no interval, so its score itself is compared.

    Example:
        >>> right = np.repeat([1.0, 0.0], [30, 70])
        >>> is_at_chance([right], 0.25), is_at_chance([right], 0.0)
        (True, False)
    """
    columns = [scores[:, None] for scores in dense]
    if np.sum(list(map(np.mean, columns))) <= chance:
        return True
    if max(map(len, columns)) == 1:
        return False
    resampled = resample_scores(columns, resamples, np.random.default_rng(seed))
    return bool(np.quantile(resampled, LOWEST_QUANTILE) <= chance)
