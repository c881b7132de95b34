"""Evaluation of answers with lm-eval's own filters and metrics."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsedial.tasks.lm_eval.encoder import silence_lm_eval
from sparsedial.tasks.lm_eval.metrics import filtered_name
from sparsedial.tasks.lm_eval.requests import Request

DocumentMetrics = dict[str, Any]
"""lm-eval's metrics of one document, by name."""

GREEDY = "the expected text"
NOT_GREEDY = "another text"

ID_FIELDS = ("id", "ID", "question_id", "doc_id", "key", "query_id")
"""Fields of a document that can hold its ID, by priority."""


@dataclass(frozen=True)
class JudgedDocuments:
    """lm-eval's evaluation of the answers, under one filter.

    Attributes:
        metrics: Metrics of each document, in the order of their indices.
        predictions: What the model answered for each document, as text: the chosen option, the generated text after the
            filter, or whether the expected text is the greedy one. A JSON list if there are several answers. Empty if
            the answer is only a number, which would differ between machines by rounding.
    """

    metrics: list[DocumentMetrics] = field(default_factory=list)
    predictions: list[str] = field(default_factory=list)


def filter_names(lm_eval_task: Any) -> list[str]:
    """Return the names of the filters of an lm-eval task, in order. Each filter has its own metrics.

    Args:
        lm_eval_task: Loaded task of lm-eval, which has built its filters from its configuration.
    """
    return [ensemble.name for ensemble in lm_eval_task._filters]


def apply_metrics(
    lm_eval_task: Any,
    documents: Mapping[int, Any],
    requests: Sequence[Request],
    responses: Sequence[Sequence[Any]],
) -> dict[str, JudgedDocuments]:
    """Return lm-eval's metrics of every document, under every filter.

    Args:
        lm_eval_task: Task of lm-eval.
        documents: The documents of the task, by index.
        requests: Requests about the documents.
        responses: Answers to each request.

    Returns:
        The metrics and predictions of the documents for each filter.
    """
    instances = _make_instances(lm_eval_task, documents, requests, responses)
    instances_by_document: dict[int, list[Any]] = defaultdict(list)
    for instance in sorted(instances, key=lambda instance: (instance.doc_id, instance.idx)):
        instances_by_document[instance.doc_id].append(instance)

    results: dict[str, JudgedDocuments] = {}
    with silence_lm_eval():
        lm_eval_task._instances = instances
        lm_eval_task.apply_filters()
        lm_eval_task._instances = None
        for name in filter_names(lm_eval_task):
            results[name] = JudgedDocuments()
            for doc, members in instances_by_document.items():
                filtered = [instance.filtered_resps[name] for instance in members]
                results[name].predictions.append(_describe_prediction(lm_eval_task, documents[doc], filtered))
                results[name].metrics.append(lm_eval_task.process_results(documents[doc], filtered))
    return results


def document_id(index: int, document: Any) -> str:
    """Return the ID of a document in its data set, or its index if it has none.

    Args:
        index: Index of the document.
        document: The document.

    Example:
        >>> document_id(3, {"id": "Mercury_7220990"}), document_id(3, {"text": "a"})
        ('Mercury_7220990', '3')
    """
    if isinstance(document, Mapping):
        for name in ID_FIELDS:
            value = document.get(name)
            if isinstance(value, str | int) and value != "":
                return str(value)
    return str(index)


def _describe_prediction(lm_eval_task: Any, document: Any, filtered: Sequence[Any]) -> str:
    """Return what the model answered for one document, as text."""
    if lm_eval_task.OUTPUT_TYPE == "multiple_choice":
        options = lm_eval_task.doc_to_choice(document)
        if len(filtered) == len(options):
            scores = [answer[0] if isinstance(answer, tuple | list) else answer for answer in filtered]
            return str(options[int(np.argmax(scores))])
    texts = []
    for answer in filtered:
        if isinstance(answer, tuple | list) and len(answer) == 2 and isinstance(answer[1], bool):
            texts.append(GREEDY if answer[1] else NOT_GREEDY)
        elif isinstance(answer, str):
            texts.append(answer)
        elif isinstance(answer, list) and all(isinstance(text, str) for text in answer):
            texts += answer  # a filter may return the texts of all repeats
    if len(texts) == 1:
        return texts[0]
    return json.dumps(texts) if texts else ""


def aggregate_metrics(lm_eval_task: Any, results: Mapping[str, JudgedDocuments]) -> dict[str, float]:
    """Return lm-eval's aggregate of every metric under every filter.

    Args:
        lm_eval_task: Task of lm-eval.
        results: Result of `apply_metrics`.

    Returns:
        The aggregates by the name of metric and filter. Metrics that lm-eval cannot aggregate on this data, or whose
        aggregate is NaN or infinite, are omitted.
    """
    aggregates: dict[str, float] = {}
    for filter_name, documents in results.items():
        for metric, values in _values_by_metric(documents.metrics).items():
            number = _aggregate(lm_eval_task, metric, values)
            if number is not None:
                aggregates[filtered_name(metric, filter_name)] = number
    return aggregates


def _make_instances(
    lm_eval_task: Any, documents: Mapping[int, Any], requests: Sequence[Request], responses: Sequence[Sequence[Any]]
) -> list[Any]:
    """Return the requests as lm-eval's instances, which hold the responses."""
    from lm_eval.api.instance import Instance

    instances = []
    for request, answers in zip(requests, responses, strict=True):
        instance = Instance(
            request_type=request.kind,
            doc=documents[request.doc],
            arguments=(),
            idx=request.idx,
            metadata=(lm_eval_task.config.task, request.doc, request.repeats),
            resps=list(answers),
        )
        instances.append(instance)
    return instances


def _values_by_metric(documents: Sequence[DocumentMetrics]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = defaultdict(list)
    for document in documents:
        for metric, value in document.items():
            values[metric].append(value)
    return values


def _aggregate(lm_eval_task: Any, metric: str, values: list[Any]) -> float | None:
    """Return the aggregate, or None if lm-eval cannot apply the metric's aggregation, or the result is not finite."""
    from lm_eval.api.metrics import mean

    aggregate = lm_eval_task.aggregation().get(metric, mean)  # lm-eval uses the mean if a task has no aggregation
    try:
        number = aggregate(values)
    except Exception:  # the aggregation of a metric that is not used may fail in any way
        return None
    if isinstance(number, int | float | np.number) and math.isfinite(number):
        return float(number)
    return None
