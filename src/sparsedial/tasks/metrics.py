"""Which of a task's metrics counts, and one number per example for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsedial.errors import TaskError

STRICT = "prompt_and_inst_level_strict_acc"
"""The paper's number for IFEval: the mean of the accuracies over prompts and over instructions, both strict."""

_STRICT_PARTS = ("prompt_level_strict_acc", "inst_level_strict_acc")
_PREFERRED = (STRICT, "acc", "exact_match")  # the paper's choice: accuracy where there is one, else exact match
_PERPLEXITIES = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
_NOT_PER_EXAMPLE = ("f1", "mcc", "brier_score", "likelihood", "bleu", "chrf", "ter")


@dataclass(frozen=True)
class Metric:
    """A metric under one of the task's filters.

    Attributes:
        name: lm-eval's name, or `STRICT`.
        filter: the filter its responses went through (``none`` where the task has no named one).
    """

    name: str
    filter: str

    @property
    def shown(self) -> str:
        """How results name it: perplexities are turned round, so that more is better.

        >>> Metric("acc", "none").shown, Metric("exact_match", "strict-match").shown
        ('acc', 'exact_match,strict-match')
        >>> Metric("byte_perplexity", "none").shown
        'inverse_byte_perplexity'
        """
        name = self.name
        if name in _PERPLEXITIES:
            name = "inverse_" + name.replace("bits_per_byte", "byte_perplexity")
        return name if self.filter == "none" else f"{name},{self.filter}"


def choose(task: str, metrics: Mapping[str, bool], filters: Sequence[str], wanted: str | None = None) -> Metric:
    """The metric that counts.

    Args:
        task: its name, for messages.
        metrics: the task's metrics, each with whether higher is better. filters: its filters, in order.
        wanted: ``metric`` or ``metric,filter``; by default the paper's choice, under the first filter.

    Raises:
        TaskError: there is no such metric or filter, or it is not a number per example.

    >>> choose("arc_easy", {"acc": True, "acc_norm": True}, ["none"])
    Metric(name='acc', filter='none')
    >>> choose("arc_easy", {"acc": True, "acc_norm": True}, ["none"], "acc_norm").name
    'acc_norm'
    """
    known = dict(metrics)
    if all(part in known for part in _STRICT_PARTS):
        known[STRICT] = True
    usable = [m for m, higher in known.items() if m in _PERPLEXITIES or (higher and m not in _NOT_PER_EXAMPLE)]
    name, _, filtered = (wanted or "").partition(",")
    if not name:
        name = next((m for m in (*_PREFERRED, *usable) if m in usable), "")
        if not name:
            raise TaskError(f"task {task!r}: none of its metrics ({', '.join(known)}) is a number per example")
    elif name not in known:
        raise TaskError(f"task {task!r}: unknown metric {name!r}: it has {', '.join(usable)}")
    elif name not in usable:
        raise TaskError(
            f"task {task!r}: metric {name!r} is not a number per example, more being better: use {', '.join(usable)}"
        )
    if filtered and filtered not in filters:
        raise TaskError(f"task {task!r}: unknown filter {filtered!r}: it has {', '.join(filters)}")
    return Metric(name, filtered or filters[0])


def values(metric: Metric, results: Sequence[Mapping[str, Any]], task: str) -> np.ndarray:
    """One number per example, whose mean is the score.

    For accuracies these are lm-eval's own, and so is their mean. Exceptions:

    - instruction-level accuracy is a mean over instructions, not examples: an example that holds n of the
      I instructions has weight n N / I, which makes the mean over the N examples lm-eval's number exactly (a
      bootstrap takes I as given);
    - a perplexity is turned round, exp(log-likelihood per unit), per example: between 0 and 1, more is better.
      The mean of these is not lm-eval's corpus figure, which is among the details.

    Raises:
        TaskError: something is not a number.

    >>> results = [{"inst_level_strict_acc": [True, False]}, {"inst_level_strict_acc": [True]}]
    >>> values(Metric("inst_level_strict_acc", "none"), results, "ifeval").mean() == 2 / 3
    np.True_
    """
    if metric.name == STRICT:
        prompt, instruction = (values(Metric(part, metric.filter), results, task) for part in _STRICT_PARTS)
        return (prompt + instruction) / 2
    seen: list[Any] = [r.get(metric.name) for r in results]
    if metric.name in _PERPLEXITIES and None not in seen:
        pairs = [v if isinstance(v, tuple) else (v, 1) for v in seen]
        seen = [math.exp(likely / units) if units else 0.0 for likely, units in pairs]
    elif seen and all(isinstance(v, (list, tuple)) and all(isinstance(x, (bool, np.bool_)) for x in v) for v in seen):
        per_example = len(seen) / sum(map(len, seen))
        seen = [sum(v) * per_example for v in seen]
    for index, value in enumerate(seen):
        if not isinstance(value, (bool, int, float, np.number, np.bool_)):
            raise TaskError(
                f"task {task!r}: metric {metric.name!r} of example {index} is {value!r:.80}, not a number: "
                "choose another metric"
            )
        if not math.isfinite(value):
            raise TaskError(f"task {task!r}: metric {metric.name!r} of example {index} is {value}")
    return np.array(seen, dtype=np.float64)
