"""Likelihoods of the reference texts of lm-eval tasks whose metrics include a perplexity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsedial.tasks.base import NLL, NLL_TOKENS
from sparsedial.tasks.lm_eval.aggregations import Aggregation, classify_aggregation


def find_perplexity_metric(lm_eval_task: Any, preferred: str) -> str | None:
    """Return the name of the metric of a task that is a perplexity, or None if it has none.

    Args:
        lm_eval_task: Task of lm-eval.
        preferred: Name of the metric to choose if it is one of several perplexities.
    """
    names = []
    for name, aggregate in lm_eval_task.aggregation().items():
        if classify_aggregation(aggregate) is Aggregation.PERPLEXITY:
            names.append(name)
    if preferred in names:
        return preferred
    return names[0] if names else None


def likelihood_columns(metric: str | None, results: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the columns of `sparsedial.tasks.base.LIKELIHOOD_COLUMNS`.

    Args:
        metric: Result of `find_perplexity_metric`.
        results: lm-eval's metrics of each example. A perplexity is a log-likelihood, whose unit is the whole text, or a
            pair of a log-likelihood and the number of units, such as words.

    Returns:
        The columns. Empty if the task has no perplexity, or if it has no number for an example.

    Example:
        >>> likelihood_columns("word_perplexity", [{"word_perplexity": (-8.0, 4)}])
        {'nll': array([8.]), 'nll_tokens': array([4.])}
    """
    values = [] if metric is None else [result.get(metric) for result in results]
    if not values or None in values:
        return {}
    pairs = []
    for value in values:
        loglikelihood, units = value if isinstance(value, tuple | list) else (value, 1)
        pairs.append((-float(loglikelihood), float(units)))
    nll, tokens = np.array(pairs).T
    return {NLL: nll, NLL_TOKENS: tokens}
