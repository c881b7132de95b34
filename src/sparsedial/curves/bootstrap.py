"""The bootstrap of mean scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def resample_scores(examples: Sequence[np.ndarray], resamples: int, random: np.random.Generator) -> np.ndarray:
    """Return the mean scores in each bootstrap resample, summed over tasks.

    Args:
        examples: For each task, the scores of its N examples, shape [N, C], multiplied by the weight of the task.
        resamples: Number of resamples, B.
        random: Source of random numbers.

    Returns:
        Scores, shape [B, C], float64.
    """
    total = np.zeros((resamples, examples[0].shape[1]))
    for matrix in examples:
        count = len(matrix)
        weights = random.multinomial(count, np.full(count, 1.0 / count), size=resamples) / count
        total += weights @ matrix
    return total
