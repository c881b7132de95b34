"""Choice of the metric that defines a task's score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsedial.errors import TaskError
from sparsedial.suggestions import describe_unknown
from sparsedial.tasks.lm_eval.aggregations import Aggregation
from sparsedial.tasks.lm_eval.metrics import IFEVAL_STRICT, IFEVAL_STRICT_PARTS, Metric

_PREFERRED = (IFEVAL_STRICT, "acc", "exact_match")  # the paper uses accuracy if the task has it, else exact match
_DIRECTIONS = {"higher": True, "lower": False}


@dataclass(frozen=True)
class MetricDefinition:
    """Definition of a metric by its task.

    Attributes:
        aggregation: How lm-eval combines the results of the examples. Defaults to their mean.
        higher_is_better: True or False as the task says, or None if it does not say. Defaults to True.
        aggregated_by: Name of the aggregation function, for error messages. Defaults to ``mean``.
    """

    aggregation: Aggregation = Aggregation.MEAN
    higher_is_better: bool | None = True
    aggregated_by: str = "mean"

    @property
    def direction(self) -> bool | None:
        """True if a higher score is better, False if a lower one is, None if it is unknown. Perplexities are inverted.

        >>> MetricDefinition(Aggregation.PERPLEXITY, higher_is_better=False).direction
        True
        """
        if self.aggregation is Aggregation.PERPLEXITY:
            return True
        return self.higher_is_better


@dataclass(frozen=True)
class MetricRequest:
    """The metric that the user asks for.

    Attributes:
        name: Name of the metric. Empty means the default of the task.
        filter: Name of the filter. Empty means the first filter of the task.
        higher_is_better: What the user says about the metric, or None.
    """

    name: str = ""
    filter: str = ""
    higher_is_better: bool | None = None

    @classmethod
    def parse(cls, text: str) -> MetricRequest:
        """Return the request that a text stands for.

        Args:
            text: ``metric``, ``metric,filter`` or one of them with ``:higher`` or ``:lower`` at its end.

        >>> MetricRequest.parse("exact_match,strict-match")
        MetricRequest(name='exact_match', filter='strict-match', higher_is_better=None)
        >>> MetricRequest.parse("loss:lower")
        MetricRequest(name='loss', filter='', higher_is_better=False)
        """
        rest, colon, direction = text.rpartition(":")
        if not colon or direction not in _DIRECTIONS:
            name, _, filter_name = text.partition(",")
            return cls(name, filter_name)
        name, _, filter_name = rest.partition(",")
        return cls(name, filter_name, _DIRECTIONS[direction])


def choose_metric(
    task_name: str, metrics: Mapping[str, MetricDefinition], filters: Sequence[str], requested: str | None = None
) -> Metric:
    """Return the metric that defines the score of a task.

    Args:
        task_name: Name of the task, for error messages.
        metrics: What the task says about its metrics, by name.
        filters: Names of the task's filters, in order.
        requested: Text that `MetricRequest.parse` accepts. None means the paper's choice and the first filter.

    Returns:
        A metric with one number for each example, of which it is known whether higher is better.

    Raises:
        TaskError: The requested metric or filter is unknown, the metric has no number for each example, or it is
            unknown whether higher is better.

    >>> definitions = {"acc": MetricDefinition(), "acc_norm": MetricDefinition()}
    >>> choose_metric("arc_easy", definitions, ["none"]).name
    'acc'
    >>> choose_metric("arc_easy", definitions, ["none"], "acc_norm").name
    'acc_norm'
    """
    known = dict(metrics)
    if all(part in known for part in IFEVAL_STRICT_PARTS):
        known[IFEVAL_STRICT] = MetricDefinition()
    usable = [name for name, definition in known.items() if definition.aggregation.is_per_example]
    request = MetricRequest.parse(requested or "")
    name = request.name or _default_metric(task_name, known, usable)
    if name not in known:
        raise TaskError(f"task {task_name!r}: {describe_unknown('metric', name, usable)}")
    definition = known[name]
    if name not in usable:
        raise TaskError(
            f"task {task_name!r}: metric {name!r} has no number per example, because {definition.aggregated_by!r} "
            f"computes it from all examples and is not a mean. {_describe_choice(usable)}"
        )
    if request.filter and request.filter not in filters:
        raise TaskError(f"task {task_name!r}: {describe_unknown('filter', request.filter, filters)}")
    higher_is_better = definition.direction
    if request.higher_is_better is not None and definition.aggregation is not Aggregation.PERPLEXITY:
        higher_is_better = request.higher_is_better
    if higher_is_better is None:
        raise TaskError(
            f"task {task_name!r}: the task does not say whether a higher value of {name!r} is better. Add "
            f"higher_is_better to the metric in the task's YAML, or use --metric {task_name}={name}:lower or "
            f"--metric {task_name}={name}:higher"
        )
    return Metric(name, request.filter or filters[0], definition.aggregation, higher_is_better)


def _default_metric(task_name: str, known: Mapping[str, MetricDefinition], usable: Sequence[str]) -> str:
    """Return the preferred metric, else the first of which higher is better, else lower, else unknown."""
    for direction in (True, False, None):
        for name in (*_PREFERRED, *usable):
            if name in usable and known[name].direction is direction:
                return name
    raise TaskError(
        f"task {task_name!r}: none of its metrics ({', '.join(known)}) has a number per example whose mean is the score"
    )


def _describe_choice(usable: Sequence[str]) -> str:
    if usable:
        return f"Use one of {', '.join(usable)}"
    return "The task has no other metric"
