"""The curves of joined studies: one for each model, site, rule, choice of layers and task, and their task averages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsedial.critical import Curve, task_average
from sparsedial.errors import SparsedialError
from sparsedial.ffn import SITES
from sparsedial.study.joined import Joined, Record, setting
from sparsedial.study.naming import AVERAGE, family, is_average
from sparsedial.study.plan import measured_curve
from sparsedial.study.store import digest
from sparsedial.tasks import DATA_FREE


@dataclass(frozen=True)
class Measured:
    """One curve: what it is of, its points, the trials it was read off (of all its tasks), the tasks averaged over."""

    label: dict[str, Any]
    curve: Curve
    dense: Record
    found: list[Record]
    over: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For a reader."""
        return ", ".join(self.label[name] for name in ("model", "site", "task"))

    @property
    def whose(self) -> str:
        """A digest of what it is of, but for its task: the curves that are averaged share it."""
        return digest({name: value for name, value in self.label.items() if name not in ("task", "metric")})

    @property
    def examples(self) -> int:
        """How many examples it was measured on, over all its tasks."""
        return sum(len(e) for e in self.curve.examples)

    @property
    def order(self) -> tuple[Any, ...]:
        """Curves are shown by family and size, then rule and layers, the tasks before their average, and the sites."""
        label = self.label
        of_model = label["family"], label["parameters"], label["model"]
        layers = label["layers"] or []
        return *of_model, label["rule"], layers, is_average(label["task"]), label["task"], SITES.index(label["site"])


def measured_curves(
    joined: Joined, models: dict[str, str], tasks: dict[str, str], problems: list[str]
) -> Iterator[Measured]:
    """The curve of every model x site x rule x layers x task; what cannot be read becomes a problem."""
    dense = {setting(r): r for r in joined.records if r["identity"]["site"] is None}
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in joined.records:
        identity = record["identity"]
        if identity["site"] is not None:
            rule = {name: value for name, value in identity["rule"].items() if name != "value"}
            dial = digest({"rule": rule, "layers": identity["layers"], "ffns": identity.get("ffns")})
            groups.setdefault((setting(record), identity["site"], dial), []).append(record)
    labels = {group: _label(found[0], models, tasks) for group, found in groups.items()}
    for (of, site, dial), found in groups.items():
        found.sort(key=lambda r: r["result"]["sparsity"])
        label = labels[of, site, dial]
        if sum(other == label for other in labels.values()) > 1:  # FFNs named by hand, or another version of the rule
            label = label | {"model": f"{label['model']} (variant {dial[:8]})"}
        try:
            if of not in dense:
                raise SparsedialError("its dense trial is missing")
            yield Measured(label, measured_curve(joined, dense[of], found), dense[of], found)
        except SparsedialError as error:
            problems.append(f"{label['model']}, {label['site']}, {label['task']}: left out: {error}")


def _label(record: Record, models: dict[str, str], tasks: dict[str, str]) -> dict[str, Any]:
    identity, labels = record["identity"], record["labels"]
    return {
        "model": models[digest(identity["model"])],
        "family": family(labels),
        "parameters": labels["parameters"],
        "active_parameters": labels.get("active_parameters") or labels["parameters"],
        "site": identity["site"],
        "rule": identity["rule"]["rule"],
        "layers": identity["layers"],
        "task": tasks[digest(identity["task"])],
        "metric": record["result"]["metric"],
    }


def group_averages(measured: Sequence[Measured]) -> list[Measured]:
    """The curve of each group that lm-eval averages (mmlu), of each model and site, weighted as lm-eval does.

    Its tasks are those that the group has, however they were asked for; where some have no curve, its name says so.
    """
    groups: dict[str, dict[str, Any]] = {}
    for m in measured:
        if group := m.dense["labels"].get("group"):
            groups.setdefault(group["name"], group)
    found = []
    for group in groups.values():
        tasks: dict[str, list[Measured]] = {}
        for m in measured:
            if m.dense["labels"]["task"] in group["members"]:
                tasks.setdefault(m.whose, []).append(m)
        for members in tasks.values():
            over = _one_each(members)
            weights = [m.dense["result"]["examples"] for m in over] if group["by_size"] else None
            some = "" if len(over) == len(group["members"]) else f" of {len(group['members'])}"
            name = f"{group['name']} ({len(over)}{some} tasks)"
            if len(over) > 1 and (mean := _mean(over, name, weights)):
                found.append(replace(mean, over=tuple(m.label["task"] for m in members)))
    return found


def task_averages(measured: Sequence[Measured], groups: Sequence[Measured] = ()) -> list[Measured]:
    """The average over tasks of each model and site, at the dial values that all its tasks have.

    A group counts as one task. Tasks without data (self-prediction) are none of the paper's and stay out; of a task
    measured in several ways, the one with most examples counts. Averages over different tasks have different names.
    """
    of: dict[str, list[Measured]] = {}
    grouped = {(m.whose, task) for m in groups for task in m.over}
    for m in (*measured, *groups):
        if m.dense["labels"]["task"] not in DATA_FREE and (m.over or (m.whose, m.label["task"]) not in grouped):
            of.setdefault(m.whose, []).append(m)
    found: list[tuple[tuple[str, ...], Measured]] = []
    for tasks in of.values():
        over = _one_each(tasks)
        if len(over) > 1 and (mean := _mean(over, AVERAGE)):
            found.append((tuple(m.label["task"] for m in over), mean))
    if len({names for names, _ in found}) < 2:
        return [m for _, m in found]
    return [replace(m, label=m.label | {"task": f"{AVERAGE} of {', '.join(names)}"}) for names, m in found]


def _one_each(measured: Sequence[Measured]) -> list[Measured]:
    """Of each task the curve with most examples, in one order for all models, so that their resamples pair."""
    tasks: dict[str, Measured] = {}
    for m in measured:
        task = m.label["task"] if m.over else m.dense["labels"]["task"]
        if task not in tasks or m.examples > tasks[task].examples:
            tasks[task] = m
    return [tasks[task] for task in sorted(tasks)]


def _mean(over: Sequence[Measured], name: str, weights: Sequence[float] | None = None) -> Measured | None:
    """The average of these curves where they have dial values in common."""
    common = sorted(set.intersection(*(set(m.curve.p.tolist()) for m in over)))
    if not common:
        return None
    mean = task_average([_at(m.curve, common) for m in over], weights)
    label = {**over[0].label, "task": name, "metric": f"mean of {len(over)}"}
    names = tuple(m.label["task"] for m in over)
    return Measured(label, mean, over[0].dense, [record for m in over for record in m.found], names)


def _at(c: Curve, values: list[float]) -> Curve:
    """The curve's points at these dial values, in this order."""
    index = [int(np.flatnonzero(c.p == value)[0]) for value in values]
    columns = [0, *(i + 1 for i in index)]
    return Curve(c.sparsity[index], c.score[index], c.dense, c.p[index], tuple(e[:, columns] for e in c.examples))
