"""Choice of the metric that defines a task's score, and conversion of lm-eval's results to one number per example."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsedial.errors import TaskError

IFEVAL_STRICT = "prompt_and_inst_level_strict_acc"
"""The paper's metric for IFEval: the mean of the strict accuracies over prompts and over instructions."""

_IFEVAL_STRICT_PARTS = ("prompt_level_strict_acc", "inst_level_strict_acc")
_PREFERRED = (IFEVAL_STRICT, "acc", "exact_match")  # the paper uses accuracy if the task has it, else exact match
_PERPLEXITIES = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
_CORPUS_METRICS = ("f1", "mcc", "brier_score", "likelihood", "bleu", "chrf", "ter")  # not means over examples


@dataclass(frozen=True)
class Metric:
    """A metric under one of the filters of a task.

    Attributes:
        name: lm-eval's name of the metric, or `IFEVAL_STRICT`.
        filter: Name of the filter that responses go through. ``none`` if the task has no named filter.
    """

    name: str
    filter: str

    @property
    def label(self) -> str:
        """Name of the metric in results. Perplexities are inverted (1 / perplexity), so that higher is better.

        >>> Metric("acc", "none").label, Metric("exact_match", "strict-match").label
        ('acc', 'exact_match,strict-match')
        >>> Metric("byte_perplexity", "none").label
        'inverse_byte_perplexity'
        """
        name = self.name
        if name in _PERPLEXITIES:
            name = "inverse_" + name.replace("bits_per_byte", "byte_perplexity")
        return filtered_name(name, self.filter)


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


def choose_metric(
    task_name: str, metrics: Mapping[str, bool], filters: Sequence[str], requested: str | None = None
) -> Metric:
    """Return the metric that defines the score of a task.

    Args:
        task_name: Name of the task, for error messages.
        metrics: For each metric of the task, whether higher is better.
        filters: Names of the task's filters, in order.
        requested: ``metric`` or ``metric,filter``. None means the paper's choice and the first filter.

    Returns:
        A metric with one number for each example.

    Raises:
        TaskError: The requested metric or filter is unknown, or the metric has no number for each example.

    >>> choose_metric("arc_easy", {"acc": True, "acc_norm": True}, ["none"])
    Metric(name='acc', filter='none')
    >>> choose_metric("arc_easy", {"acc": True, "acc_norm": True}, ["none"], "acc_norm").name
    'acc_norm'
    """
    known = dict(metrics)
    if all(part in known for part in _IFEVAL_STRICT_PARTS):
        known[IFEVAL_STRICT] = True
    usable = [name for name, higher_is_better in known.items() if _is_usable(name, higher_is_better)]
    name, _, filter_name = (requested or "").partition(",")
    if not name:
        name = _default_metric(task_name, known, usable)
    elif name not in known:
        raise TaskError(f"task {task_name!r}: unknown metric {name!r}: expected one of {', '.join(usable)}")
    elif name not in usable:
        raise TaskError(
            f"task {task_name!r}: metric {name!r} has no number per example of which higher is better: use one of "
            f"{', '.join(usable)}"
        )
    if filter_name and filter_name not in filters:
        raise TaskError(f"task {task_name!r}: unknown filter {filter_name!r}: expected one of {', '.join(filters)}")
    return Metric(name, filter_name or filters[0])


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
    >>> per_example_values(Metric("inst_level_strict_acc", "none"), results, "ifeval").mean() == 2 / 3
    np.True_
    """
    if metric.name == IFEVAL_STRICT:
        total = np.zeros(len(results))
        for part in _IFEVAL_STRICT_PARTS:
            total += per_example_values(Metric(part, metric.filter), results, task_name)
        return total / len(_IFEVAL_STRICT_PARTS)
    values: list[Any] = [result.get(metric.name) for result in results]
    if metric.name in _PERPLEXITIES and None not in values:
        values = list(map(_inverse_perplexity, values))
    elif values and all(map(_is_boolean_list, values)):
        instructions = sum(map(len, values))
        values = [sum(value) * (len(values) / instructions) for value in values]
    for index, value in enumerate(values):
        _check_number(value, f"task {task_name!r}: metric {metric.name!r} of example {index}")
    return np.array(values, dtype=np.float64)


def _is_usable(name: str, higher_is_better: bool) -> bool:
    """Return True if the metric is a number per example, possibly after the inversion of a perplexity."""
    if name in _PERPLEXITIES:
        return True
    return higher_is_better and name not in _CORPUS_METRICS


def _default_metric(task_name: str, known: Mapping[str, bool], usable: Sequence[str]) -> str:
    for name in (*_PREFERRED, *usable):
        if name in usable:
            return name
    raise TaskError(
        f"task {task_name!r}: none of its metrics ({', '.join(known)}) is a number per example of which "
        "higher is better"
    )


def _inverse_perplexity(value: Any) -> float:
    """Return exp(log-likelihood per unit), given a log-likelihood or a pair of log-likelihood and number of units."""
    if not isinstance(value, tuple):
        return math.exp(value)
    loglikelihood, units = value
    if not units:
        return 0.0
    return math.exp(loglikelihood / units)


def _is_boolean_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, bool | np.bool_) for item in value)


def _check_number(value: Any, description: str) -> None:
    if not isinstance(value, bool | int | float | np.number | np.bool_):
        raise TaskError(f"{description} is {value!r:.80}, not a number: choose another metric")
    if not math.isfinite(value):
        raise TaskError(f"{description} is {value}: expected a finite number")
