"""Notes for readers who compare curves: mixed devices, averages over different tasks, missing averages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter

from sparsedial.analysis.retention_curves import CurveSetting, LabelledCurve
from sparsedial.analysis.task_averages import Averages
from sparsedial.analysis.trial_set import TrialSet, describe_device
from sparsedial.tasks.registry import is_data_free


def make_notes(trial_set: TrialSet, curves: Sequence[LabelledCurve], averages: Averages) -> list[str]:
    """Return the notes that a reader needs when comparing curves.

    Args:
        trial_set: The trials.
        curves: The curve of every model, site and task.
        averages: Their averages over tasks.

    Returns:
        One sentence per note.
    """
    notes = (
        *_notes_at_chance(curves, averages),
        _note_retention_averages(averages),
        _note_phases(curves),
        _note_mixed_devices(curves),
        _note_different_averages(averages),
        _note_families(trial_set),
        _note_missing_averages(curves, averages),
    )
    return list(filter(None, notes))


def _notes_at_chance(curves: Sequence[LabelledCurve], averages: Averages) -> list[str]:
    """Return one note per model and task whose dense score cannot be told from chance."""
    notes = {}
    for curve in (*curves, *averages.task_groups):
        if curve.is_at_chance:
            notes[curve.group.model, curve.label.task] = (
                f"{curve.group.model}, {curve.label.task}: there is nothing to retain, because the dense score "
                f"{curve.curve.dense:.4g} cannot be told from chance ({curve.chance:.4g}) on {curve.examples} examples."
                " The task has no critical sparsity and is left out of averages over all tasks."
            )
    return list(notes.values())


def _note_retention_averages(averages: Averages) -> str | None:
    if not any(map(attrgetter("curve.members"), averages.all_tasks)):
        return None
    return (
        "The scores of the tasks are not on one scale, so the average over tasks is that of their retentions, with "
        "equal weights, and not the paper's average of scores."
    )


def _note_phases(curves: Sequence[LabelledCurve]) -> str | None:
    phases: set[str] = set()
    for curve in curves:
        for trial in curve.trials:
            phases.update(trial.identity.phases or ())
    if not phases:
        return None
    names = " or ".join(sorted(phases))
    return (
        f"Some rules were applied in {names} only. The model was dense in the other phase, and the sparsity of these "
        "curves is that of the phase with the rule."
    )


def _note_mixed_devices(curves: Sequence[LabelledCurve]) -> str | None:
    mixed = []
    for curve in curves:
        devices = set(map(describe_device, (curve.dense, *curve.trials)))
        if len(devices) > 1:
            mixed.append(curve.name)
    if not mixed:
        return None
    return f"The trials of these curves ran on different devices: {'; '.join(mixed)}."


def _note_different_averages(averages: Averages) -> str | None:
    names = sorted({average.label.task for average in averages.all_tasks})
    if len(names) < 2:
        return None
    return f"The averages are of different tasks or kinds and are not compared with each other: {'; '.join(names)}."


def _note_families(trial_set: TrialSet) -> str | None:
    models = set()
    is_derived = False
    for record in trial_set.trials:
        models.add(record.identity.model)
        is_derived = is_derived or not record.model.family
    if len(models) < 2 or not is_derived:
        return None
    return "The family of a model is the one in its record or, if there is none, its name without its size."


def _note_missing_averages(curves: Sequence[LabelledCurve], averages: Averages) -> str | None:
    tasks_by_group: dict[CurveSetting, set[str]] = defaultdict(set)
    for curve in curves:
        task = curve.dense.task.name  # one task with several sets of options has no average over tasks
        can_be_averaged = not is_data_free(task) and averages.find_task_group(curve) is None
        if can_be_averaged and not curve.is_at_chance and not averages.has_average(curve.group):
            tasks_by_group[curve.group].add(task)
    missing = [f"{group.model}, {group.site}" for group, tasks in tasks_by_group.items() if len(tasks) > 1]
    if not missing:
        return None
    return f"No average over tasks, because the tasks were not measured at a common value of p: {'; '.join(missing)}."
