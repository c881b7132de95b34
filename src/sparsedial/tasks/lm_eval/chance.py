"""Score of random choices in a multiple-choice task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sparsedial.tasks.lm_eval.encoder import silence_lm_eval
from sparsedial.tasks.lm_eval.metrics import Metric

CHOICE_ACCURACIES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
"""Accuracies of multiple choice, whose score of random choices is 1 / options."""


def chance_score(metric: Metric, lm_eval_task: Any, documents: Iterable[Any]) -> float | None:
    """Return the expected score of random choices: the mean of 1 / options over the documents.

    Args:
        metric: Metric that defines the score.
        lm_eval_task: Task of lm-eval.
        documents: The documents that are scored.

    Returns:
        The score. None if the task is not multiple choice, or if it defines the metric by code of its own.
    """
    has_choices = lm_eval_task.OUTPUT_TYPE == "multiple_choice" and metric.name in CHOICE_ACCURACIES
    if not has_choices or getattr(lm_eval_task.config, "process_results", None) is not None:
        return None
    with silence_lm_eval():
        shares = [_correct_share(lm_eval_task, document) for document in documents]
    return sum(shares) / len(shares)


def _correct_share(lm_eval_task: Any, document: Any) -> float:
    """Return the number of correct options of a document, divided by the number of options."""
    options = len(lm_eval_task.doc_to_choice(document))
    if not lm_eval_task.multiple_target:
        return 1 / options
    target = lm_eval_task.doc_to_target(document)
    return len(set(target)) / options if isinstance(target, list) else 1 / options
