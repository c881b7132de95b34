"""The criterion of a study: what a sparse model has to keep of the dense one, the score or the perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sparsedial.curves.perplexity import PERPLEXITY_INCREASE
from sparsedial.errors import SpecError
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


def check_kind_has_likelihoods(criterion: str, tasks: Iterable[object], kind: str, name: str) -> None:
    """Check that a task has texts whose perplexity can be measured with a model of this kind.

    With the criterion ``both``, the score decides where there are none.

    Args:
        criterion: The criterion of the study.
        tasks: The tasks of the study.
        kind: Kind of the model.
        name: Name of the model.

    Raises:
        SpecError: The criterion is ``perplexity``, and no task gives such a model likelihoods.
    """
    tasks = list(tasks)
    if not any(map(gives_likelihoods, tasks)):  # a problem with any model, see `describe_criterion_problems`
        return
    if criterion != PERPLEXITY or any(gives_likelihoods(task, kind) for task in tasks):
        return
    names = ", ".join(str(getattr(task, "name", task)) for task in tasks)
    raise SpecError(
        f"criterion {criterion!r}: {name!r} is a {kind} model, and no task has a text whose perplexity such a model "
        f"gives: {names}. Add a perplexity task of lm-eval, choose a causal model, or use the criterion 'score'"
    )


def gives_likelihoods(task: object, kind: str | None = None) -> bool:
    """Return True if the scores of a task can have the columns of `sparsedial.tasks.base.LIKELIHOOD_COLUMNS`.

    Args:
        task: A task. Its attribute ``gives_likelihoods`` is True if they can. Its attribute ``likelihood_kinds`` names
            the kinds of models, if not all of them give likelihoods.
        kind: Kind of the model. Defaults to None, which means any kind.
    """
    kinds = getattr(task, "likelihood_kinds", None)
    is_other_kind = kind is not None and kinds is not None and kind not in kinds
    return bool(getattr(task, "gives_likelihoods", False)) and not is_other_kind
