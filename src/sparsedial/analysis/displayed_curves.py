"""The curves that the tables of a report show: those of single tasks, and their averages."""

from __future__ import annotations

from dataclasses import dataclass

from sparsedial.analysis.perplexity_columns import choose_criterion
from sparsedial.analysis.retention_curves import DisplayNames, read_curves
from sparsedial.analysis.task_averages import average_curves
from sparsedial.analysis.trial_set import read_studies
from sparsedial.curves.curve import Curve
from sparsedial.study.store import Store


@dataclass(frozen=True)
class DisplayedCurve:
    """A curve with its labels, as in the tables.

    Attributes:
        model: Display name of the model.
        site: Where the rule was applied.
        rule: Name of the rule.
        task: Display name of the task, or of an average over tasks.
        metric: Name of the metric.
        curve: The measured points.
    """

    model: str
    site: str
    rule: str
    task: str
    metric: str
    curve: Curve


def read_displayed_curves(store: Store) -> tuple[DisplayedCurve, ...]:
    """Read the curves of a study, in the order of the tables.

    Args:
        store: Directory of the study.

    Returns:
        The curves of single tasks and their averages.
    """
    trial_set = read_studies([store])
    names = DisplayNames.from_trials(trial_set.trials)
    curves, _ = read_curves(trial_set, names, choose_criterion(trial_set.specs))
    averages = average_curves(curves)
    displayed = []
    for curve in sorted([*curves, *averages.task_groups, *averages.all_tasks], key=lambda curve: curve.sort_key):
        group = curve.group
        label = curve.label
        displayed.append(DisplayedCurve(group.model, group.site, group.rule, label.task, label.metric, curve.curve))
    return tuple(displayed)
