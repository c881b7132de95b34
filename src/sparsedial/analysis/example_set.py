"""The examples that a curve is scored on. Two curves are compared example by example if these are equal.

The scores of a trial are in the order of its task's examples. Two trials of one task therefore have the same examples
in the same order, except that a task without data samples its examples from the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsedial.analysis.labels import task_digest
from sparsedial.analysis.retention_curves import LabelledCurve
from sparsedial.models.identity import ModelIdentity
from sparsedial.tasks.registry import is_data_free


@dataclass(frozen=True)
class ExampleSet:
    """The examples of one or several tasks.

    Attributes:
        tasks: Digest of the identity of each task. The identity holds every option that changes the examples.
        model: Model that the examples are sampled from. None if all tasks have data.
    """

    tasks: frozenset[str]
    model: ModelIdentity | None


def find_example_set(curve: LabelledCurve) -> ExampleSet:
    """Return the examples that a curve is scored on.

    Args:
        curve: The curve of a task, or of an average over tasks.
    """
    names = {}
    for record in curve.trials:
        names[task_digest(record)] = record.task.name
    model = None
    if any(map(is_data_free, names.values())):
        model = curve.dense.identity.model
    return ExampleSet(frozenset(names), model)
