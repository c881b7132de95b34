"""The two tests of a measured point: does it keep the required share of the dense score, or lose it?

Both are one-sided paired t-tests of the margin (`sparsedial.curves.paired_scores`), and share an error probability of
5%. Each has 2.5%, unless there are so few right or wrong answers that not even an unchanged score can be shown to be
kept (`fewest_examples`). The lower end of the interval of critical sparsity is then nearly always 0, which cannot be
too high, so that its test needs only a tenth of its error probability. The other test has the rest, and counts two
additional changed examples instead of four. With 64 answers, it finds a loss from five lost and no gained answers on,
as the exact sign test does.
"""

from __future__ import annotations

import math

import numpy as np

from sparsedial.curves.curve import Curve
from sparsedial.curves.paired_scores import EXTRA_CHANGES, NO_CHANGE, TAIL, PairedScores

FEW_KEEP_TAIL = TAIL / 10
"""Error probability of ``keeps`` if not even an unchanged score can be shown to be kept."""

FEW_LOSS_TAIL = 2 * TAIL - FEW_KEEP_TAIL
"""Error probability of ``loses`` in this case."""

FEW_EXTRA_CHANGES = 2
"""Number of additional examples with a changed score that the test of ``loses`` counts in this case."""


def compute_verdict_statistic(measured: Curve, scores: PairedScores, retain: float, fewest: int) -> np.ndarray:
    """Compute what decides whether a point keeps the required share of the dense score.

    Args:
        measured: The curve.
        scores: Its means and variances.
        retain: Share of the dense score to keep, in (0, 1].
        fewest: The number of examples that `fewest_examples` returns.

    Returns:
        For each point, the margin divided by its tested standard error, shape [K]: above 1 the point keeps the share,
        below -1 it loses it, and otherwise the tests do not decide. With ``retain`` 1, every curve has the usual tests.
    """
    if sum(map(len, measured.examples)) >= fewest:
        return scores.statistic(retain)
    margin = scores.margin(retain)
    variance = scores.variance(retain)
    fewer_changes = variance - scores.extra_variance * (1 - FEW_EXTRA_CHANGES / EXTRA_CHANGES)
    keeps = margin / (scores.quantile_above(FEW_KEEP_TAIL) * np.sqrt(variance))
    loses = margin / (scores.quantile_above(FEW_LOSS_TAIL) * np.sqrt(fewer_changes))
    return np.where(margin > 0, keeps, loses)


def fewest_examples(measured: Curve, scores: PairedScores, retain: float) -> int:
    """Return the number of examples from which the test can say that an unchanged score is kept.

    With fewer examples, `EXTRA_CHANGES` changed examples outweigh the share of the score that may be lost. This is
    known only for scores that are all or nothing. Other scores change less at lower sparsity.

    Args:
        measured: The curve.
        scores: Its means and variances.
        retain: Share of the dense score to keep, in (0, 1].

    Returns:
        The number of examples over all tasks. 0 if it is not known, or if ``retain`` is 1, which no number of examples
        can show.
    """
    if retain >= 1.0 or not all(map(_is_all_or_nothing, measured.examples)):
        return 0
    first = 0  # every point would do, because the number does not depend on the number of scored examples
    examples = sum(int(np.isfinite(matrix[:, 1 + first]).sum()) for matrix in measured.examples)
    needed = scores.quantile[first] * math.sqrt(scores.extra_variance[first])
    needed /= (1 - retain) * float(measured.reference[first])
    return math.ceil(round(examples * float(needed), 6))


def _is_all_or_nothing(matrix: np.ndarray) -> bool:
    """Return True if every score is 0 or the largest score, shape [N, 1 + K]. NaN stands for no score."""
    largest = np.nanmax(matrix)
    for column in matrix.T:  # one by one, because smooth scores can usually be told from the first column
        distance = np.minimum(np.abs(column), np.abs(column - largest))
        if (distance > NO_CHANGE * largest).any():
            return False
    return True
