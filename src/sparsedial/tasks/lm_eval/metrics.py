"""The metric that defines a task's score, and conversion of lm-eval's results to one number per example."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsedial.errors import TaskError
from sparsedial.tasks.lm_eval.aggregations import Aggregation

IFEVAL_STRICT = "prompt_and_inst_level_strict_acc"
"""The paper's metric for IFEval: the mean of the strict accuracies over prompts and over instructions."""
IFEVAL_STRICT_PARTS = {
    "prompt_level_strict_acc": Aggregation.MEAN,
    "inst_level_strict_acc": Aggregation.ITEM_MEAN,
}
"""The metrics whose mean is `IFEVAL_STRICT`, and how lm-eval aggregates them."""
MAX_RELATIVE_DIFFERENCE = 1e-6
"""Maximum difference between the mean of the examples' numbers and lm-eval's number, relative to the latter."""


@dataclass(frozen=True)
class Metric:
    """A metric under one of the filters of a task.

    Attributes:
        name: lm-eval's name of the metric, or `IFEVAL_STRICT`.
        filter: Name of the filter that responses go through. ``none`` if the task has no named filter.
        aggregation: How lm-eval combines the results of the examples. Defaults to their mean.
        higher_is_better: True if a higher score is better, False if a lower score is better. Defaults to True.
    """

    name: str
    filter: str
    aggregation: Aggregation = Aggregation.MEAN
    higher_is_better: bool = True

    @property
    def averages_examples(self) -> bool:
        """False if the number of an example depends on the other examples, see `per_example_values`."""
        return self.aggregation is not Aggregation.ITEM_MEAN and self.name != IFEVAL_STRICT

    @property
    def label(self) -> str:
        """Name of the metric in results. Perplexities are inverted (1 / perplexity), so that higher is better.

        >>> Metric("acc", "none").label, Metric("exact_match", "strict-match").label
        ('acc', 'exact_match,strict-match')
        >>> Metric("byte_perplexity", "none", Aggregation.PERPLEXITY).label
        'inverse_byte_perplexity'
        """
        name = self.name
        if self.aggregation is Aggregation.PERPLEXITY:
            name = "inverse_" + name.replace("bits_per_byte", "byte_perplexity")
        return filtered_name(name, self.filter)


def find_result_metric(metric: Metric, results: Sequence[Mapping[str, Any]], other_names: Collection[str]) -> Metric:
    """Return the metric under the name that lm-eval gives to its results.

    The function of a metric may return a dictionary, whose keys then replace the name of the metric: that of humaneval
    is ``pass_at_k``, and its results are ``pass@1``.

    Args:
        metric: Metric that defines the score.
        results: lm-eval's metrics of each example, under the filter of the metric.
        other_names: Names of all metrics of the task.

    Returns:
        The same metric, or one with the name of the only result that no metric of the task has.

    >>> find_result_metric(Metric("pass_at_k", "none"), [{"pass@1": 1.0}], ["pass_at_k"]).name
    'pass@1'
    """
    if metric.name == IFEVAL_STRICT or any(metric.name in result for result in results):
        return metric
    new_names: set[str] = set()
    for result in results:
        new_names |= set(result) - set(other_names)
    if len(new_names) != 1:
        return metric
    return replace(metric, name=new_names.pop())


def filtered_name(metric: str, filter_name: str) -> str:
    """Return the name of a metric under a filter. The filter ``none`` is omitted from the name.

    Args:
        metric: Name of the metric, for example ``exact_match``.
        filter_name: Name of the filter that responses go through, for example ``strict-match``.

    Returns:
        ``metric,filter_name``, or ``metric`` if the filter is ``none``.
    """
    if filter_name == "none":
        return metric
    return f"{metric},{filter_name}"


def per_example_values(metric: Metric, results: Sequence[Mapping[str, Any]], task_name: str) -> np.ndarray:
    """Return one number per example, whose mean is the score.

    The numbers and their mean equal those of lm-eval, with two exceptions:

    - Instruction-level accuracy is a mean over instructions, not over examples. An example with n fulfilled
      instructions gets n N / I, where N is the number of examples and I the number of instructions of all examples,
      so the mean over examples equals lm-eval's accuracy. A bootstrap over examples keeps I fixed.
    - A perplexity is inverted for each example: exp(log-likelihood per unit), between 0 and 1, where higher is better.
      Their mean differs from lm-eval's corpus perplexity, which is stored in `Scores.details`.

    Args:
        metric: Metric that defines the score.
        results: lm-eval's metrics of each example, under the filter of the metric.
        task_name: Name of the task, for error messages.

    Returns:
        Finite numbers, shape [examples], float64.

    Raises:
        TaskError: A result is missing, or is not a finite number.

    >>> results = [{"inst_level_strict_acc": [True, False]}, {"inst_level_strict_acc": [True]}]
    >>> metric = Metric("inst_level_strict_acc", "none", Aggregation.ITEM_MEAN)
    >>> per_example_values(metric, results, "ifeval").mean() == 2 / 3
    np.True_
    """
    if metric.name == IFEVAL_STRICT:
        total = np.zeros(len(results))
        for part, aggregation in IFEVAL_STRICT_PARTS.items():
            total += per_example_values(Metric(part, metric.filter, aggregation), results, task_name)
        return total / len(IFEVAL_STRICT_PARTS)
    values: list[Any] = [result.get(metric.name) for result in results]
    if metric.aggregation is Aggregation.PERPLEXITY and None not in values:
        values = list(map(_inverse_perplexity, values))
    elif metric.aggregation is Aggregation.ITEM_MEAN and all(map(_is_list, values)):
        items = sum(map(len, values))
        values = [sum(value) * (len(values) / items) for value in values]
    for index, value in enumerate(values):
        _check_number(value, f"task {task_name!r}: metric {metric.name!r} of example {index}")
    return np.array(values, dtype=np.float64)


def check_mean(metric: Metric, score: float, aggregates: Mapping[str, float], task_name: str) -> None:
    """Raise an error if a score is not the number that lm-eval computes.

    Args:
        metric: Metric that defines the score. A perplexity is not checked, because its score is inverted.
        score: Mean of the numbers of the examples.
        aggregates: lm-eval's aggregates by the name of metric and filter.
        task_name: Name of the task, for the error message.

    Raises:
        TaskError: The numbers differ.
    """
    expected = aggregates.get(metric.label)
    if expected is None or metric.aggregation is Aggregation.PERPLEXITY:
        return
    if not math.isclose(score, expected, rel_tol=MAX_RELATIVE_DIFFERENCE, abs_tol=MAX_RELATIVE_DIFFERENCE):
        raise TaskError(
            f"task {task_name!r}: the mean of {metric.name!r} over examples is {score:.6g}, but lm-eval's aggregation "
            f"gives {expected:.6g}. Expected a metric that is a mean over examples: choose another one with "
            f"--metric {task_name}=METRIC"
        )


def _inverse_perplexity(value: Any) -> float:
    """Return exp(log-likelihood per unit), given a log-likelihood or a pair of log-likelihood and number of units."""
    if not isinstance(value, tuple | list):
        return math.exp(value)
    loglikelihood, units = value
    if not units:
        return 0.0
    return math.exp(loglikelihood / units)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _check_number(value: Any, description: str) -> None:
    if not isinstance(value, bool | int | float | np.number | np.bool_):
        raise TaskError(
            f"{description} is {value!r:.80}, not a number: choose another metric with --metric TASK=METRIC"
        )
    if not math.isfinite(value):
        raise TaskError(
            f"{description} is {value}: expected a finite number. Choose another metric with --metric TASK=METRIC, or "
            "remove the example"
        )
