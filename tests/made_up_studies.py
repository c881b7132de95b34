"""Whole studies on disk without a model: made-up trials, consistent from the counters to the examples."""

from dataclasses import dataclass

import numpy as np

from sparsedial.study.plan import Found
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store, digest
from sparsedial.study.trial import identity

CRITICAL = {"input": 0.18, "up": 0.19, "gate": 0.16, "intermediate": 0.39, "all_inputs": 0.23}
SKIPPED = {"input": 2 / 3, "up": 2 / 3, "gate": 2 / 3, "intermediate": 1 / 3, "all_inputs": 1.0}
VECTORS = {"all_inputs": ("input", "intermediate")}


@dataclass(frozen=True)
class Model:
    """A made-up model: ``strength`` moves all its critical sparsities."""

    name: str
    parameters: int
    strength: float = 1.0
    layers: int = 4
    experts: int = 0  # with each layer's last never routed to, and expert 1 of layer 1 an outlier
    active: int | None = None
    steps: int = 0
    dtype: str = "float32"
    weights: str | None = None
    device: str = "cpu"


def study(folder, models, tasks=("arc_easy", "piqa"), sites=("input", "intermediate"), values=(0.98, 0.95, 0.9, 0.8),
          examples=200, limit=None, generates=(), search=False, retain=0.99, groups=None):  # fmt: skip
    """Write a whole study; ``search``: its spec asks for a search, and ``values`` are what it chose.

    ``examples``: of every task, or by task. ``groups``: by task, the group's name and whether it is weighted by size;
    a third entry says that the task was not asked for by the group's name.
    """
    store = Store.create(folder)
    spec = StudySpec(
        models=tuple(m.name for m in models), sites=sites, tasks=tasks, values=None if search else values, retain=retain
    )
    store.write_spec(spec.to_json())
    configs = {task: {"task": task, "version": 1, "limit": limit} for task in tasks}
    found = []
    for m, model in enumerate(models):
        own = {"weights": model.weights or digest(model.name), "dtype": model.dtype, "trust_remote_code": False}
        found.append(Found(model.name, own, "f", sites, model.parameters))
        for t, task in enumerate(tasks):
            number = examples[task] if isinstance(examples, dict) else examples
            hard, answers = np.random.default_rng(t).random(number), np.zeros(number)  # the same for every model
            random = np.random.default_rng([m, t])
            for site, value in [(None, None), *((site, value) for site in sites for value in values)]:
                rule = None if site is None else {"rule": "top_p", "value": value, "version": 1}
                record = _record(model, own, configs[task], site, rule, task in generates)
                if site is None:
                    answers = (hard < 0.7).astype(float)
                    scores = answers
                else:
                    critical = CRITICAL[site] * model.strength * (1 + 0.06 * t)
                    lost = 0.01 * (record["result"]["sparsity"] / critical) ** 3
                    scores = np.where(random.random(number) < lost, 0.0, answers)
                record["result"] |= {"score": float(scores.mean()), "examples": number}
                if (of := (groups or {}).get(task)) and len(of) == 2:
                    members = [name for name, its in groups.items() if its[0] == of[0]]
                    record["labels"]["group"] = {"name": of[0], "by_size": of[1], "members": members}
                store.write_trial(record, scores)
    store.write_resolved({
        "tasks": list(configs.values()), "models": [f.identity for f in found], "found": [f.to_json() for f in found],
    })  # fmt: skip
    return store


def _record(model, own, task, site, rule, generates):
    """A finished trial whose counts add up."""
    phases = ("prefill", "generation") if generates else ("prefill",)
    turned = 0.0 if rule is None else (1 - rule["value"]) ** 0.5
    rows = []
    for phase in phases if site else ():
        for layer in range(model.layers):
            for vector in VECTORS.get(site, (site,)):
                for expert in range(model.experts) or [None]:
                    for step in range(model.steps) or [None]:
                        rows.append(_row(model, vector, phase, layer, expert, step, turned))
    dropped, total = (sum(row[name] for row in rows) for name in ("dropped", "total"))
    made = identity(own, task, "f", site, rule, None)
    lengthened = {"generated_tokens": 60 + 80 * turned, "limit_hit": 0.02 + 0.5 * turned} if generates else {}
    labels = {"model": model.name, "origin": "hub", "parameters": model.parameters, "device": model.device}
    if model.active:
        labels["active_parameters"] = model.active
    return {
        "key": digest(made), "identity": made, "labels": labels | {"task": task["task"]},
        "result": {"metric": "acc", "details": {"acc": 0.5, **lengthened}, "dropped": dropped, "total": total,
                   "sparsity": dropped / total if total else 0.0},
        "stats": rows, "skippable": {v: SKIPPED[v] for v in VECTORS.get(site, (site,))} if site else {},
        "seconds": 1.0, "provenance": {"versions": {"torch": "2.13.0"}, "gpus": ["H100", "H100"]},
    }  # fmt: skip


def _row(model, vector, phase, layer, expert, step, turned):
    """A counter: deeper layers are sparser, and generation a little more than prefill."""
    level = min(1.0, turned * {"intermediate": 1.3}.get(vector, 0.8) * (0.8 + 0.4 * layer / max(model.layers - 1, 1)))
    level = level * (1.0 if phase == "prefill" else 1.1)
    tokens, width = 1000, 100
    if expert is not None:
        tokens = 0 if expert == model.experts - 1 else 2000 // (expert + 1)
        level *= 1.0 + 0.02 * ((expert * 7 + layer) % 5)
        level *= 1.6 if (layer, expert) == (1, 1) else 1.0
    if step is not None:
        level *= 1 + 0.1 * np.cos(step / 4)
    total = tokens * width
    row = {"layer": layer, "module": f"layers.{layer}", "site": vector, "expert": expert, "phase": phase, "step": step,
           "dropped": int(total * min(level, 1.0)), "total": total, "nonfinite": 0}  # fmt: skip
    row["sparsity"] = row["dropped"] / total if total else None
    if expert is not None:
        row |= {"tokens": tokens, "weight": tokens / 6000}
    return row
