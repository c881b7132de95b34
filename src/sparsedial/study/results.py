"""From a study's trials to tables: points, critical sparsities, per-layer profiles. What is left out is said."""

from __future__ import annotations

from collections.abc import Iterable
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
    task_average,
)
from sparsedial.errors import SparsedialError, StoreError
from sparsedial.ffn import SITES
from sparsedial.rules import RULES
from sparsedial.study.run import measured_curve
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store, digest
from sparsedial.tasks.self_prediction import SelfPrediction

WIDE = 0.10  # an interval wider than this is marked
HALF_WIDTH = 0.02  # "how many examples would be needed" is for this
AVERAGE = "average"


@dataclass(frozen=True)
class Results:
    """What a report shows.

    Attributes:
        critical: one row per model x site x rule x task (``average``: over the tasks).
        points: one row per measured point. layers: sparsity by layer at the point nearest the critical one.
        problems: what is missing, failed, damaged or invalid, a sentence each.
        provenance: what made the numbers. title: of the report. retain: the share kept.
    """

    critical: pd.DataFrame
    points: pd.DataFrame
    layers: pd.DataFrame
    problems: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    title: str = "Activation sparsity"
    retain: float = RETAIN


def results(store: Store, retain: float | None = None) -> Results:
    """Read a study's trials and compute what its report shows.

    Finished trials of other settings (another limit, seed, dtype, ...) stay in the directory and are not shown.

    Args:
        store: the study. retain: the share of the dense score to keep; by default the study's.

    Raises:
        StoreError: the directory cannot be read, or has no finished trial.
    """
    spec = store.read_spec()
    finished = list(store.trials())
    resolved = store.read_resolved()
    records = [r for r in finished if _belongs(r, spec, resolved)]
    if not records:
        raise StoreError(f"{str(store.folder)!r}: no finished trial of its study.json. Run it first.")
    retain = float(spec.get("retain", RETAIN)) if retain is None else retain
    problems: list[str] = []
    dense = {_setting(r): r for r in records if r["identity"]["site"] is None}
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        identity = record["identity"]
        if identity["site"] is not None:
            dial = digest({"rule": identity["rule"]["rule"], "layers": identity["layers"]})
            groups.setdefault((_setting(record), identity["site"], dial), []).append(record)
    measured: list[tuple[dict[str, Any], Curve, list[dict[str, Any]]]] = []
    for (setting, site, _), found in groups.items():
        found.sort(key=lambda r: r["result"]["sparsity"])
        label = _labels(found[0])
        try:
            if setting not in dense:
                raise SparsedialError("its dense trial is missing")
            c = measured_curve(store, dense[setting], found)
        except SparsedialError as error:
            problems.append(f"{label['model']}, {site}, {label['task']}: left out: {error}")
            continue
        measured.append((label, c, found))
    rows, points_rows, layer_rows = [], [], []
    for label, c, found in [*measured, *_averages(measured)]:
        critical = critical_sparsity(c, retain)
        rows.append(_critical_row(label, c, critical, found))
        points_rows += _point_rows(label, c, spec)
        if label["task"] != AVERAGE:
            layer_rows += _layer_rows(label, critical, found)
    whole = {r["key"] for r in finished}
    aside = sorted(p.name for p in (store.folder / "quarantine").glob("*"))
    quarantined = [name for name in aside if name.split(".")[0] not in whole]
    problems += [f"damaged, set aside: quarantine/{name}" for name in quarantined]
    models = {r["labels"]["model"]: {**r["labels"], **r["identity"]["model"]} for r in records}
    for entry in models.values():
        entry.pop("task", None)
    return Results(
        critical=_ordered(pd.DataFrame(rows)),
        points=_ordered(pd.DataFrame(points_rows)),
        layers=_ordered(pd.DataFrame(layer_rows)),
        problems=problems,
        provenance={
            "made by": _merged(r["provenance"] for r in records),
            "models": models,
            "tasks": {r["labels"]["task"]: r["identity"]["task"] for r in records},
            "study": spec,
            "trials": len(records),
            "trials of other settings, not shown": len(finished) - len(records),
            "seconds": round(sum(r["seconds"] for r in records), 1),
            "command": StudySpec.from_json(spec).command(),
        },
        title=f"Activation sparsity of {', '.join(models)}",
        retain=retain,
    )


def _belongs(record: dict[str, Any], spec: dict[str, Any], resolved: dict[str, Any] | None) -> bool:
    """Whether a trial is of the settings that were asked for last."""
    identity = record["identity"]
    if resolved is None:
        return True
    if identity["model"] not in resolved["models"] or identity["task"] not in resolved["tasks"]:
        return False
    sites = spec["sites"] or SITES
    return identity["site"] is None or (
        identity["site"] in sites and identity["rule"]["rule"] == spec["rule"] and identity["layers"] == spec["layers"]
    )


def _setting(record: dict[str, Any]) -> str:
    """Trials of one setting are comparable: same model, same task."""
    return digest({"model": record["identity"]["model"], "task": record["identity"]["task"]})


def _labels(record: dict[str, Any]) -> dict[str, Any]:
    identity, labels = record["identity"], record["labels"]
    return {
        "model": labels["model"],
        "parameters": labels["parameters"],
        "site": identity["site"],
        "rule": identity["rule"]["rule"],
        "layers": identity["layers"],
        "task": labels["task"],
        "metric": record["result"]["metric"],
    }


def _averages(
    measured: list[tuple[dict[str, Any], Curve, list[dict[str, Any]]]],
) -> list[tuple[dict[str, Any], Curve, list[dict[str, Any]]]]:
    """The average over tasks of each model and site, at the dial values that all its tasks have.

    Self-prediction is no task of the paper's and stays out.
    """
    groups: dict[str, list[tuple[dict[str, Any], Curve, list[dict[str, Any]]]]] = {}
    for entry in measured:
        if entry[0]["task"] == SelfPrediction.name:
            continue
        label = {k: v for k, v in entry[0].items() if k not in ("task", "metric")}
        groups.setdefault(digest(label), []).append(entry)
    averages = []
    for entries in groups.values():
        if len(entries) < 2:
            continue
        common = sorted(set.intersection(*(set(c.p.tolist()) for _, c, _ in entries)))
        if common:
            mean = task_average([_at(c, common) for _, c, _ in entries])
            found = [record for _, _, records in entries for record in records]
            averages.append(({**entries[0][0], "task": AVERAGE, "metric": "mean"}, mean, found))
    return averages


def _at(c: Curve, values: list[float]) -> Curve:
    """The curve's points at these dial values, in this order."""
    index = [int(np.flatnonzero(c.p == value)[0]) for value in values]
    columns = [0, *(i + 1 for i in index)]
    return Curve(c.sparsity[index], c.score[index], c.dense, c.p[index], tuple(e[:, columns] for e in c.examples))


def _critical_row(
    label: dict[str, Any], c: Curve, critical: CriticalSparsity, found: list[dict[str, Any]]
) -> dict[str, Any]:
    examples = sum(len(e) for e in c.examples)
    share = _skippable(critical.value, found)
    span = None if critical.low is None or critical.high is None else critical.high - critical.low
    return {
        **label,
        "value": critical.value,
        "low": critical.low,
        "high": critical.high,
        "first_crossing": critical.first_crossing,
        "status": critical.status,
        "p": _dial(label["rule"], c, critical),
        "open": critical.open,
        "skippable": share * critical.value,
        "skippable_low": None if critical.low is None else share * critical.low,
        "skippable_high": None if critical.high is None else share * critical.high,
        "dense_score": c.dense,
        "examples": examples,
        "examples_needed": critical.examples_needed(examples, HALF_WIDTH),
        "wide": span is not None and span > WIDE,
        "points": len(c.p),
    }


def _skippable(value: float, found: list[dict[str, Any]]) -> float:
    """Skippable multiplications per unit of sparsity, at the measured dial value nearest to ``value``.

    The two vectors of all_inputs are not equally sparse, so it is the counts there that say it.
    """
    dropping = [r for r in found if r["result"]["dropped"]]
    if not dropping:
        return 0.0
    nearest = min(dropping, key=lambda r: abs(r["result"]["sparsity"] - value))["identity"]["rule"]["value"]
    records = [r for r in found if r["identity"]["rule"]["value"] == nearest]
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


def _point_rows(label: dict[str, Any], c: Curve, spec: dict[str, Any]) -> list[dict[str, Any]]:
    low = high = np.full(len(c.p), np.nan)
    if c.examples:
        low, high = np.quantile(resampled_retention(c), [0.025, 0.975], axis=0)
    grid = spec.get("values")
    return [
        {
            **label,
            "p": c.p[k],
            "sparsity": c.sparsity[k],
            "score": c.score[k],
            "dense_score": c.dense,
            "retention": c.retention[k],
            "low": low[k],
            "high": high[k],
            "chosen_by": "search" if grid is None else "grid" if c.p[k] in grid else "earlier",
        }
        for k in range(len(c.p))
    ]


def _layer_rows(label: dict[str, Any], critical: CriticalSparsity, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    record = min(found, key=lambda r: abs(r["result"]["sparsity"] - critical.value))
    return [
        {
            "model": label["model"],
            "site": label["site"],
            "vector": row["site"],
            "rule": label["rule"],
            "task": label["task"],
            "p": record["identity"]["rule"]["value"],
            "phase": row["phase"],
            "layer": row["layer"],
            "sparsity": row["sparsity"],
        }
        for row in record["stats"]
    ]


def _merged(entries: Iterable[dict[str, Any]]) -> Any:
    """One provenance if all trials share it, else the list of those there were."""
    distinct = list({digest(e): e for e in entries}.values())
    return distinct[0] if len(distinct) == 1 else distinct


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:
        return frame
    frame = frame.assign(_site=frame["site"].map(SITES.index), _average=frame["task"] == AVERAGE)
    keys = ["model", "_average", "task", "_site", *[c for c in ("vector", "layer", "p") if c in frame]]
    return frame.sort_values(keys, kind="stable").drop(columns=["_site", "_average"]).reset_index(drop=True)
