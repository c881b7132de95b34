"""The perplexity criterion: critical sparsity as the highest sparsity with a perplexity at most 1% higher than dense.

Perplexity is the exponential of the mean negative log-likelihood (NLL). Its ratio to that of the dense model is at most
``1 + increase`` exactly if the mean difference of the NLLs is at most ``log(1 + increase)``. So the curve of
``1 - (sparse NLL - dense NLL)`` is compared with ``1 - log(1 + increase)``, where the dense model has 1. The paired
test and the interval of a point are then those of a mean difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real

import numpy as np

from sparsedial.curves.critical import CriticalSparsity, critical_sparsity
from sparsedial.curves.curve import Curve, make_curve
from sparsedial.errors import SpecError

PERPLEXITY_INCREASE = 0.01
"""Largest relative increase of the perplexity (Sparsing Law, arXiv 2411.02335: CETT-PPL-1%)."""


def critical_sparsity_by_perplexity(
    points: Curve | Sequence[object],
    increase: float = PERPLEXITY_INCREASE,
    *,
    dense: float | Sequence[float] | np.ndarray | None = None,
) -> CriticalSparsity:
    """Compute the highest sparsity whose perplexity exceeds that of the dense model by a share, and its 95% interval.

    Source of the criterion: arXiv 2411.02335, section 3.

    Args:
        points: A `Curve` of NLLs, or tuples ``(sparsity, nll)`` or ``(sparsity, nll, p)``. The NLL is a number, or the
            mean NLL per token of each example, shape [N]. Examples have equal weights.
        increase: Largest relative increase of the perplexity, above 0. Defaults to 0.01.
        dense: The dense NLL, or one for each example. Not needed if ``points`` is a `Curve` or has a point at sparsity
            0.

    Returns:
        The critical sparsity. Its ``retain`` is ``1 - log(1 + increase)``.

    Raises:
        SpecError: ``increase`` is not a number between 0 and 1, or the curve is an average over tasks.

    Example:
        >>> nll = np.array([2.0, 3.0])
        >>> critical = critical_sparsity_by_perplexity([(0.0, nll), (0.3, nll), (0.4, nll + 0.02)])
        >>> round(critical.estimate, 3), round(critical.retain, 5)
        (0.35, 0.99005)
    """
    if not isinstance(increase, Real) or not 0.0 < increase < 1.0:
        raise SpecError(f"increase={increase!r}: expected a number between 0 and 1, such as 0.01")
    measured = points if isinstance(points, Curve) else make_curve(points, dense, higher_is_better=False)
    if measured.members or len(measured.examples) > 1:
        raise SpecError(
            "critical_sparsity_by_perplexity: got an average over tasks; expected the curve of one task, whose "
            "scores are negative log-likelihoods"
        )
    return critical_sparsity(compare_likelihoods(measured), 1 - math.log1p(increase))


def compare_likelihoods(measured: Curve) -> Curve:
    """Return the curve of ``1 - (sparse NLL - dense NLL)``, whose dense score is 1.

    Args:
        measured: The curve of the NLLs of one task.

    Returns:
        The curve. Points whose mean is negative, because they have lost more than one nat per token, have the score 0.
    """
    examples = []
    for matrix in measured.examples:
        ones = np.ones((len(matrix), 1))
        examples.append(np.concatenate([ones, 1 - (matrix[:, 1:] - matrix[:, :1])], axis=1))
    return replace(
        measured,
        score=np.maximum(1 - (measured.score - measured.reference), 0.0),
        dense=1.0,
        examples=tuple(examples),
        higher_is_better=True,
        is_unit_scale=False,
        dense_at_points=None,
    )
