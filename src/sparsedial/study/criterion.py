"""The criterion of a study: what a sparse model has to keep of the dense one, the score or the perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sparsedial.curves.perplexity import PERPLEXITY_INCREASE
from sparsedial.suggestions import suggest

SCORE = "score"
PERPLEXITY = "perplexity"
BOTH = "both"
CRITERIA = (SCORE, PERPLEXITY, BOTH)
"""The criteria of a study. ``both`` reports the critical sparsity by the score and by the perplexity."""

RETAIN_BY_PERPLEXITY = 1 - math.log1p(PERPLEXITY_INCREASE)
"""What a curve of `compare_likelihoods` has to keep, so that the perplexity is at most 1% higher than the dense one."""


def describe_criterion_problems(criterion: str, tasks: Iterable[object]) -> list[str]:
    """Return the problems of the criterion of a study that can be detected before a model is loaded.

    Args:
        criterion: The criterion.
        tasks: The tasks of the study.

    Returns:
        One sentence if the criterion is unknown, or if it needs likelihoods and no task has any. Otherwise nothing.
    """
    if criterion not in CRITERIA:
        hint = suggest(criterion, CRITERIA) or f"expected one of {', '.join(CRITERIA)}"
        return [f"criterion {criterion!r}: {hint}"]
    tasks = list(tasks)
    if criterion == SCORE or not tasks or any(map(gives_likelihoods, tasks)):
        return []
    names = ", ".join(str(getattr(task, "name", task)) for task in tasks)
    return [
        f"criterion {criterion!r}: no task has a text whose perplexity can be measured: {names}. Add self_prediction, "
        "next_token or a perplexity task of lm-eval, or use the criterion 'score'"
    ]


def gives_likelihoods(task: object) -> bool:
    """Return True if the scores of a task can have the columns of `sparsedial.tasks.base.LIKELIHOOD_COLUMNS`.

    Args:
        task: A task. Its attribute ``gives_likelihoods`` is True if they can.
    """
    return bool(getattr(task, "gives_likelihoods", False))
