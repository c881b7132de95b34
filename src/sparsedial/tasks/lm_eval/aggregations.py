"""Recognition of what an aggregation function of lm-eval computes, by its results and not by its name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum, auto
from itertools import chain
from typing import Any

from sparsedial.tasks.lm_eval.encoder import silence_lm_eval

TOLERANCE = 1e-9


class Aggregation(Enum):
    """Ways in which lm-eval combines the results of all examples into one number."""

    MEAN = auto()
    """Mean over examples, each of which has a number."""
    ITEM_MEAN = auto()
    """Mean over the items of all examples, each of which has a list of numbers, such as one for each instruction."""
    PERPLEXITY = auto()
    """Function of the mean log-likelihood per example, or per word or byte of all examples."""
    CORPUS = auto()
    """Anything else, such as a correlation: examples have no numbers whose mean is the result."""

    @property
    def is_per_example(self) -> bool:
        """True if every example has a number of its own."""
        return self is not Aggregation.CORPUS


def classify_aggregation(aggregate: Any) -> Aggregation:
    """Return what an aggregation function computes.

    The function is called with a few small lists, so a function that a task defines itself is recognized as well.

    Args:
        aggregate: Function that lm-eval calls with the results of all examples. None means that there is none.

    >>> classify_aggregation(lambda values: sum(values) / len(values))
    <Aggregation.MEAN: 1>
    >>> classify_aggregation(max)
    <Aggregation.CORPUS: 4>
    """
    with silence_lm_eval():
        for aggregation, reference, probes in _REFERENCES:
            if all(_is_equal(aggregate, reference, probe) for probe in probes):
                return aggregation
    return Aggregation.CORPUS


def _is_equal(aggregate: Any, reference: Callable[[Sequence[Any]], float], probe: Sequence[Any]) -> bool:
    """Return True if two aggregation functions have the same result."""
    try:
        result = float(aggregate(list(probe)))
    except Exception:  # the function may expect results of another form and fail in any way
        return False
    return math.isclose(result, reference(probe), rel_tol=TOLERANCE)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _item_mean(examples: Sequence[Sequence[float]]) -> float:
    return _mean(list(chain.from_iterable(examples)))


def _weighted_mean(pairs: Sequence[tuple[float, int]]) -> float:
    numerators, weights = zip(*pairs, strict=True)
    return sum(numerators) / sum(weights)


def _perplexity(loglikelihoods: Sequence[float]) -> float:
    return math.exp(-_mean(loglikelihoods))


def _weighted_perplexity(pairs: Sequence[tuple[float, int]]) -> float:
    return math.exp(-_weighted_mean(pairs))


def _bits_per_unit(pairs: Sequence[tuple[float, int]]) -> float:
    return -_weighted_mean(pairs) / math.log(2)


_LOGLIKELIHOODS = [-0.5, -2.0, -4.0]
_WEIGHTED_LOGLIKELIHOODS = [(-0.5, 1), (-2.0, 3), (-4.0, 7)]
_REFERENCES: tuple[tuple[Aggregation, Callable[[Sequence[Any]], float], list[Any]], ...] = (
    (Aggregation.MEAN, _mean, [[1, 0, 0, 1, 1], [0.25, 2.0, 0.5, 0.125, 31.0], [True, False, False]]),
    (Aggregation.ITEM_MEAN, _item_mean, [[[True, False, True], [False]], [[True], [True, False], [False]]]),
    (Aggregation.PERPLEXITY, _perplexity, [_LOGLIKELIHOODS]),
    (Aggregation.PERPLEXITY, _weighted_perplexity, [_WEIGHTED_LOGLIKELIHOODS]),
    (Aggregation.PERPLEXITY, _bits_per_unit, [_WEIGHTED_LOGLIKELIHOODS]),
)
"""Per aggregation, a function that computes it, and lists for which the results are compared."""
