"""The conditions that a statement holds for, in English."""

from __future__ import annotations

from sparsedial.analysis.finding_records import Conditions
from sparsedial.analysis.labels import is_average
from sparsedial.report.formatting import sanitize_text
from sparsedial.tasks.task_names import AVERAGE


def describe_scope(scope: Conditions) -> str:
    """Describe the task, the rule and the layers that a statement holds for.

    Args:
        scope: The conditions.

    Returns:
        A part of a sentence.

    Example:
        >>> describe_scope(Conditions("piqa", rule="top_k")), describe_scope(Conditions("average"))
        ('on piqa under top_k', 'on average over the tasks')
    """
    task = sanitize_text(scope.task)
    text = f"on {task}"
    if scope.task == AVERAGE:
        text = "on average over the tasks"
    elif is_average(scope.task):
        text = f"on the {task}"
    if scope.rule is not None:
        text += f" under {sanitize_text(scope.rule)}"
    if scope.layers is not None:
        text += f" in layers {sanitize_text(scope.layers)}"
    return text
