"""From the trials of studies to tables: points, critical sparsities, profiles. What is left out is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sparsedial.critical import (
    RETAIN,
    CriticalSparsity,
    Curve,
    critical_sparsity,
    resampled_retention,
    size_trend,
)
from sparsedial.rules import RULES
from sparsedial.study import profiles
from sparsedial.study.curves import Measured, group_averages, measured_curves, task_averages
from sparsedial.study.joined import Joined, Record, device, join, retained
from sparsedial.study.naming import is_average, model_names, task_names
from sparsedial.study.store import Store, digest
from sparsedial.tasks.self_prediction import SelfPrediction

WIDE = 0.10  # an interval wider than this, or open above, is marked
HALF_WIDTH = 0.02  # "how many examples would be needed" is for this


@dataclass(frozen=True)
class Results:
    """What a report shows.

    Attributes:
        critical: one row per model x site x rule x task (``average``: over the tasks).
        points: one row per measured point. layers: sparsity by layer at the point nearest the critical one.
        problems: what is missing, failed, damaged or invalid, a sentence each.
        provenance: what made the numbers. title: of the report. retain: the share kept.
        notes: what to know when comparing curves, a sentence each.
        trends: one row per family of several sizes x site x rule x task: `size_trend`.
        experts, steps: like ``layers``, for mixtures of experts and for diffusion models.
        likeness: how alike kept sets are along the denoising steps, and masked against revealed tokens.
        generated: what generation tasks generated at each point.
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
    likeness: pd.DataFrame = field(default_factory=pd.DataFrame)
    generated: pd.DataFrame = field(default_factory=pd.DataFrame)


def results(stores: Store | Sequence[Store], retain: float | None = None) -> Results:
    """Read the trials of studies, joined, and compute what their report shows.

    The same trial in two studies counts once. Finished trials of other settings than a study asked for last (another
    limit, seed, dtype, ...) stay in its directory and are not shown.

    Args:
        stores: the studies. retain: the share of the dense score to keep; by default the studies'.

    Raises:
        StoreError: a directory cannot be read, or none has a finished trial.
        SpecError: the studies keep different shares, and ``retain`` is not given.
    """
    joined = join([stores] if isinstance(stores, Store) else stores)
    retain = retained(joined.specs) if retain is None else retain
    models, tasks = model_names(joined.records), task_names(joined.records)
    problems, notes = list(joined.problems), []
    measured = sorted(measured_curves(joined, models, tasks, problems), key=lambda m: m.order)
    if mixed := [m.name for m in measured if len({device(r) for r in (m.dense, *m.found)}) > 1]:
        notes.append(f"Measured on different devices within one curve: {'; '.join(mixed)}.")
    groups = group_averages(measured)
    averages = task_averages(measured, groups)
    if len(sets := {m.label["task"] for m in averages}) > 1:
        notes.append(f"The averages are over different tasks, and so not compared: {'; '.join(sorted(sets))}.")
    if len(models) > 1 and not all(r["labels"].get("family") for r in joined.records):
        notes.append("A model's family is what its record says, or else its name without its size.")
    every = sorted([*measured, *groups, *averages], key=lambda m: m.order)
    averaged = {m.whose for m in averages}
    grouped = {(m.whose, task): m.label["task"] for m in groups for task in m.over}
    tasks_of: dict[str, list[Measured]] = {}
    for m in measured:
        if (
            m.label["task"] != SelfPrediction.name
            and m.whose not in averaged
            and (m.whose, m.label["task"]) not in grouped
        ):
            tasks_of.setdefault(m.whose, []).append(m)
    if apart := [f"{ms[0].label['model']}, {ms[0].label['site']}" for ms in tasks_of.values() if len(ms) > 1]:
        notes.append(f"No average, since the tasks have no dial value in common: {'; '.join(apart)}.")
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in ("critical", "points", "layers")}
    tables |= {name: [] for name in ("experts", "steps", "likeness", "generated")}
    experts = {m.label["model"]: 0 for m in measured}
    for m in measured:
        experts[m.label["model"]] = max(experts[m.label["model"]], profiles.experts_of(m.found))
    for m in every:
        critical = critical_sparsity(m.curve, retain)
        here = profiles.near(m.found, critical.value)
        tables["critical"].append(_critical_row(m, critical) | {"group": grouped.get((m.whose, m.label["task"]))})
        tables["points"] += _point_rows(m, joined)
        if not m.over:
            tables["layers"] += profiles.layer_rows(m.label, here)
            tables["generated"] += profiles.generated_rows(m.label, m.dense, m.found)
        if m.whose not in averaged or is_average(m.label["task"]) or m.label["task"] == SelfPrediction.name:
            tables["experts"] += profiles.expert_rows(m.label, here, experts[m.label["model"]])
            tables["steps"] += profiles.step_rows(m.label, here)
            tables["likeness"] += profiles.likeness_rows(m.label, here)
    return Results(
        **{name: pd.DataFrame(rows) for name, rows in tables.items()},
        trends=pd.DataFrame(_trends(every, retain)),
        problems=problems,
        provenance=_provenance(joined, models, tasks),
        title=f"Activation sparsity of {', '.join(experts) if 0 < len(experts) <= 3 else f'{len(models)} models'}",
        retain=retain,
        notes=notes,
    )


def _critical_row(m: Measured, critical: CriticalSparsity) -> dict[str, Any]:
    examples = m.examples
    share = _skippable(critical.value, m.found)
    span = None if critical.low is None or critical.high is None else critical.high - critical.low
    return {
        **m.label,
        "value": critical.value,
        "low": critical.low,
        "high": critical.high,
        "first_crossing": critical.first_crossing,
        "status": critical.status,
        "p": _dial(m.label["rule"], m.curve, critical),
        "open": critical.open,
        "skippable": share * critical.value,
        "skippable_low": None if critical.low is None else share * critical.low,
        "skippable_high": None if critical.high is None else share * critical.high,
        "dense_score": m.curve.dense,
        "examples": examples,
        "examples_needed": critical.examples_needed(examples, HALF_WIDTH),
        "wide": span is not None and (span > WIDE or critical.open),
        "points": len(m.curve.p),
    }


def _skippable(value: float, found: list[Record]) -> float:
    """Skippable multiplications per unit of sparsity, at the measured dial value nearest to ``value``.

    The two vectors of all_inputs are not equally sparse, so it is the counts there that say it.
    """
    dropping = [r for r in found if r["result"]["dropped"]]
    if not dropping:
        return 0.0
    records = profiles.near(dropping, value)
    counts: dict[str, list[int]] = {}
    for row in (row for r in records for row in r["stats"]):
        entry = counts.setdefault(row["site"], [0, 0])
        entry[0] += row["dropped"]
        entry[1] += row["total"]
    skipped = sum(records[0]["skippable"][site] * dropped / total for site, (dropped, total) in counts.items())
    dropped, total = (sum(column) for column in zip(*counts.values(), strict=True))
    return skipped * total / dropped


def _dial(rule: str, c: Curve, critical: CriticalSparsity) -> float | None:
    """The dial value at the critical sparsity; before the first point, between the rule's dense end and that point."""
    if critical.p is not None or not np.isfinite(c.p[0]):
        return critical.p
    dense = RULES[rule].dense
    return float(dense + (c.p[0] - dense) * critical.value / c.sparsity[0])


def _point_rows(m: Measured, joined: Joined) -> list[dict[str, Any]]:
    c = m.curve
    low = high = np.full(len(c.p), np.nan)
    if c.examples:
        low, high = np.quantile(resampled_retention(c), [0.025, 0.975], axis=0)
    chosen = {r["identity"]["rule"]["value"]: joined.chosen_by(r) for r in m.found}
    return [
        {
            **m.label,
            "p": c.p[k],
            "sparsity": c.sparsity[k],
            "score": c.score[k],
            "dense_score": c.dense,
            "retention": c.retention[k],
            "low": low[k],
            "high": high[k],
            "chosen_by": chosen[c.p[k]],
        }
        for k in range(len(c.p))
    ]


def _trends(measured: Sequence[Measured], retain: float) -> Iterator[dict[str, Any]]:
    """For every family of several sizes, whether its larger models tolerate more, by site, rule and task."""
    by = ("family", "rule", "layers", "task", "site")
    groups: dict[str, list[Measured]] = {}
    for m in measured:
        groups.setdefault(digest([m.label[name] for name in by]), []).append(m)
    for group in groups.values():
        sizes = [m.label["parameters"] for m in group]
        if len(set(sizes)) < 2:
            continue
        trend = size_trend(sizes, [m.curve for m in group], retain)
        yield {
            **{name: group[0].label[name] for name in by},
            "models": len(group),
            "smallest": min(sizes),
            "largest": max(sizes),
            "slope": trend.slope,
            "low": trend.low,
            "high": trend.high,
            "rising": trend.rising,
            "steps": trend.steps,
            "bounds": trend.bounds,
            "verdict": trend.verdict,
        }


def _provenance(joined: Joined, models: dict[str, str], tasks: dict[str, str]) -> dict[str, Any]:
    records = joined.records
    about = {models[digest(r["identity"]["model"])]: {**r["labels"], **r["identity"]["model"]} for r in records}
    for entry in about.values():
        entry.pop("task", None)
        entry.pop("group", None)
    specs = [spec.to_json() for spec in joined.specs]
    commands = [spec.command() for spec in joined.specs]
    return {
        "made by": _merged(r["provenance"] for r in records),
        "models": about,
        "tasks": {tasks[digest(r["identity"]["task"])]: r["identity"]["task"] for r in records},
        **({"study": specs[0]} if len(specs) == 1 else {"studies": specs}),
        "trials": len(records),
        "trials of other settings, not shown": joined.others,
        "seconds": round(sum(r["seconds"] for r in records), 1),
        **({"command": commands[0]} if len(commands) == 1 else {"commands": commands}),
    }


def _merged(entries: Iterable[dict[str, Any]]) -> Any:
    """One provenance if all trials share it, else the list of those there were."""
    distinct = list({digest(e): e for e in entries}.values())
    return distinct[0] if len(distinct) == 1 else distinct
