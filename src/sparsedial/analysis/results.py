"""The results of studies as tables: critical sparsities, points, breakdowns, trends, and notes for the reader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import pandas as pd

from sparsedial.analysis import breakdowns
from sparsedial.analysis.changed_answers import ChangedAnswers
from sparsedial.analysis.comparison_notes import make_notes
from sparsedial.analysis.cost_notes import note_costs
from sparsedial.analysis.curve_rows import critical_row, point_rows, trend_rows
from sparsedial.analysis.differences import difference_rows
from sparsedial.analysis.estimates import DEFAULT_PRECISION
from sparsedial.analysis.example_texts import ExampleTexts
from sparsedial.analysis.generation_cost import generation_cost_rows
from sparsedial.analysis.generation_segments import segment_rows
from sparsedial.analysis.perplexity_columns import (
    choose_criterion,
    critical_perplexity_columns,
    describe_criterion,
    point_perplexity_columns,
)
from sparsedial.analysis.profiles import expert_profile_rows, layer_profile_rows
from sparsedial.analysis.retention_curves import DisplayNames, LabelledCurve, read_curves
from sparsedial.analysis.study_provenance import summarize_provenance
from sparsedial.analysis.task_averages import Averages, average_curves
from sparsedial.analysis.trial_set import TrialSet, read_studies, required_retention
from sparsedial.curves.critical import RETAIN, critical_sparsity
from sparsedial.study.criterion import BOTH, PERPLEXITY, RETAIN_BY_PERPLEXITY
from sparsedial.study.store import Store
from sparsedial.tasks.registry import is_data_free

MAX_MODELS_IN_TITLE = 3


@dataclass(frozen=True)
class Results:
    """The results that a report shows. The columns of the tables are described in docs/output-tables.md.

    Attributes:
        critical: One row per model, site, rule and task; averages over tasks have the task "average".
        points: One row per measured point.
        layers: Sparsity by layer, at the measured point nearest to the critical sparsity.
        problems: What is missing, failed, damaged or invalid, one sentence each.
        provenance: Versions, machine, models, tasks, studies and commands that produced the numbers.
        title: Title of the report.
        retain: Share of the dense score to keep.
        notes: Notes for the comparison of curves, one sentence each.
        trends: One row per model family, site, rule and task: how critical sparsity changes with size.
        experts: Sparsity by expert, at the measured point nearest to the critical sparsity.
        steps: Sparsity by denoising step, at the measured point nearest to the critical sparsity.
        step_overlap: Overlap of kept sets along the denoising steps.
        generated: Length of the generated texts and sparsity by phase at each point, for generation tasks.
        segments: Tokens and sparsity of prompt, thinking and answer at each point, for generation tasks.
        cost: Generated tokens and net work at each point, for generation tasks.
        differences: One row per pair of sites, rules or models on a task: the difference of their critical sparsities.
        layers_by_p: Sparsity of all layers at each measured p, one row per curve, p, phase and vector.
        experts_by_p: Spread of sparsity over the experts of each layer, at each measured p.
        changes: Number of answers that differ from those of the dense model, near the critical sparsity.
        changed_examples: Examples whose answer changed near the critical sparsity.
        changed_tokens: Predicted tokens that changed most often near the critical sparsity.
        reference: Values of references beside those measured here (`compare_with_references`). Empty unless a reference
            is given.
    """

    critical: pd.DataFrame
    points: pd.DataFrame
    layers: pd.DataFrame
    problems: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    title: str = "Activation sparsity"
    retain: float = RETAIN
    notes: list[str] = field(default_factory=list)
    trends: pd.DataFrame = field(default_factory=pd.DataFrame)
    experts: pd.DataFrame = field(default_factory=pd.DataFrame)
    steps: pd.DataFrame = field(default_factory=pd.DataFrame)
    step_overlap: pd.DataFrame = field(default_factory=pd.DataFrame)
    generated: pd.DataFrame = field(default_factory=pd.DataFrame)
    segments: pd.DataFrame = field(default_factory=pd.DataFrame)
    cost: pd.DataFrame = field(default_factory=pd.DataFrame)
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    layers_by_p: pd.DataFrame = field(default_factory=pd.DataFrame)
    experts_by_p: pd.DataFrame = field(default_factory=pd.DataFrame)
    changes: pd.DataFrame = field(default_factory=pd.DataFrame)
    changed_examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    changed_tokens: pd.DataFrame = field(default_factory=pd.DataFrame)
    reference: pd.DataFrame = field(default_factory=pd.DataFrame)


ROW_TABLES = (
    "critical", "points", "layers", "experts", "steps", "step_overlap", "generated", "segments", "layers_by_p",
    "experts_by_p", "changes", "changed_examples", "changed_tokens",
)  # fmt: skip
"""Tables whose rows belong to single curves."""


def compute_results(
    stores: Store | Sequence[Store], retain: float | None = None, criterion: str | None = None
) -> Results:
    """Read the trials of studies and compute the tables of their report.

    A trial that is part of several studies is used once. Finished trials that do not match the current specification of
    their study (because of another limit, seed or dtype, for example) are not used. They stay in the directory.

    Args:
        stores: The directory of a study, or several.
        retain: Share of the dense score to keep, in (0, 1]. Defaults to the share that the studies require.
        criterion: "score", "perplexity" or "both". Defaults to the criterion of the studies. By "perplexity", all
            tables are those of the perplexity criterion, and ``retain`` is not used.

    Returns:
        The tables, with problems and notes.

    Raises:
        StorageError: A directory cannot be read, or no study has a finished trial.
        SpecError: The studies require different shares of the dense score and ``retain`` is None, or a study was
            written with another schema.
    """
    trial_set = read_studies([stores] if isinstance(stores, Store) else stores)
    criterion = choose_criterion(trial_set.specs, criterion)
    if criterion == PERPLEXITY:
        retain = RETAIN_BY_PERPLEXITY
    elif retain is None:
        retain = required_retention(trial_set.specs)
    names = DisplayNames.from_trials(trial_set.trials)
    curves, curve_problems = read_curves(trial_set, names, criterion)
    averages = average_curves(curves)
    displayed = sorted([*curves, *averages.task_groups, *averages.all_tasks], key=lambda curve: curve.sort_key)
    rows = _table_rows(displayed, averages, trial_set, retain)
    if criterion == BOTH:
        _add_perplexities(rows, displayed)
    costs = [generation_cost_rows(curve, trial_set) for curve in displayed if not curve.averaged_tasks]
    tables = {name: pd.DataFrame(rows[name]) for name in ROW_TABLES}
    return Results(
        **tables,
        cost=pd.DataFrame(list(chain.from_iterable(costs))),
        trends=pd.DataFrame(trend_rows(displayed, retain)),
        differences=pd.DataFrame(difference_rows(displayed, retain)),
        problems=[*trial_set.problems, *curve_problems],
        provenance=summarize_provenance(trial_set, names),
        title=_title(curves, names),
        retain=retain,
        notes=[
            *make_notes(trial_set, curves, averages),
            *note_costs(costs),
            *describe_criterion(criterion, curves),
        ],
    )


def _table_rows(
    curves: Sequence[LabelledCurve], averages: Averages, trial_set: TrialSet, retain: float
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table.

    The tables of experts and steps contain only headline curves, those of steps also tasks without data.
    """
    experts = _experts_by_model(curves)
    texts = ExampleTexts()
    changed = ChangedAnswers()
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for curve in curves:
        label = curve.label
        critical = None
        shown_sparsity = 0.0  # without a critical sparsity, the breakdowns are those of the point of lowest sparsity
        if not curve.is_at_chance:
            measured = critical_sparsity(curve.curve, retain)
            if measured.low is not None:  # two examples of each task give an interval
                critical = measured
                shown_sparsity = critical.center
        nearest = breakdowns.nearest_trials(curve.trials, shown_sparsity)
        precision = trial_set.requested_precision(curve.trials) or DEFAULT_PRECISION
        rows["critical"].append(critical_row(curve, critical, averages.find_task_group(curve), precision))
        rows["points"] += point_rows(curve, trial_set)
        if not curve.averaged_tasks:
            rows["layers"] += breakdowns.layer_rows(label, nearest)
            rows["generated"] += breakdowns.generation_length_rows(label, curve.dense, curve.trials)
            rows["segments"] += segment_rows(curve)
            rows["layers_by_p"] += layer_profile_rows(curve)
            if not curve.is_at_chance:
                changed.add_curve(curve, nearest, trial_set, texts)
        if averages.is_headline(curve):
            rows["experts"] += breakdowns.expert_rows(label, nearest, experts[curve.group.model])
            rows["experts_by_p"] += expert_profile_rows(curve, experts[curve.group.model])
        if averages.is_headline(curve) or is_data_free(curve.dense.task.name):  # denoising is not part of an average
            rows["steps"] += breakdowns.step_rows(label, nearest)
            rows["step_overlap"] += breakdowns.step_overlap_rows(label, nearest)
    rows["changes"] = changed.changes
    rows["changed_examples"] = changed.examples
    rows["changed_tokens"] = changed.tokens
    return rows


def _add_perplexities(rows: Mapping[str, list[dict[str, Any]]], curves: Sequence[LabelledCurve]) -> None:
    """Add the columns of the perplexity criterion to the rows of critical sparsities and points."""
    points = iter(rows["points"])
    for row, curve in zip(rows["critical"], curves, strict=True):
        row.update(critical_perplexity_columns(curve))
        for columns in point_perplexity_columns(curve):
            next(points).update(columns)


def _experts_by_model(curves: Sequence[LabelledCurve]) -> dict[str, int]:
    experts: dict[str, int] = defaultdict(int)
    for curve in curves:
        model = curve.group.model
        experts[model] = max(experts[model], breakdowns.count_experts(curve.trials))
    return experts


def _title(curves: Sequence[LabelledCurve], names: DisplayNames) -> str:
    models = list(dict.fromkeys(curve.group.model for curve in curves))
    if 0 < len(models) <= MAX_MODELS_IN_TITLE:
        return f"Activation sparsity of {', '.join(models)}"
    return f"Activation sparsity of {len(names.models)} models"
