"""Whole studies on disk without a model: made-up trials, consistent from the counters to the examples."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from sparsedial.models.identity import ModelIdentity
from sparsedial.rules import make_rule
from sparsedial.study.canonical_json import json_digest
from sparsedial.study.job import ResolvedModel
from sparsedial.study.provenance import Provenance
from sparsedial.study.records import ModelLabel, SparsityCount, TaskLabel, TrialIdentity, TrialRecord, TrialResult
from sparsedial.study.sample_table import NO_LABELS, SampleLabels
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.tasks.base import TaskGroup

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
          examples=200, limit=None, generates=(), search=False, retain=0.99, groups=None,
          rules=("top_p",), precision=None, labelled=False):  # fmt: skip
    """Write a whole study; ``search``: its spec asks for a search, and ``values`` are what it chose.

    ``examples``: of every task, or by task. ``groups``: by task, the group's name and whether it is weighted by size;
    a third entry says that the task was not asked for by the group's name. ``labelled``: every example has an ID and
    an answer, "right" or "wrong".
    """
    store = Store.create(folder)
    spec = StudySpec(
        models=tuple(m.name for m in models),
        sites=sites,
        rules=rules,
        tasks=tasks,
        values=None if search else values,
        precision=precision,
        retain=retain,
    )
    store.write_spec(spec.to_json())
    configs = {task: {"task": task, "version": 1, "limit": limit} for task in tasks}
    found = []
    for m, model in enumerate(models):
        own = ModelIdentity(model.weights or json_digest(model.name), model.dtype)
        found.append(ResolvedModel(model.name, own, "f", sites, model.parameters))
        for t, task in enumerate(tasks):
            number = examples[task] if isinstance(examples, dict) else examples
            hard, answers = np.random.default_rng(t).random(number), np.zeros(number)  # the same for every model
            random = np.random.default_rng([m, t])
            for site, name, value in [(None, None, None), *product(sites, rules, values)]:
                rule = None if site is None else make_rule(name, value)
                record = _record(model, own, configs[task], site, rule, task in generates)
                if site is None:
                    answers = (hard < 0.7).astype(float)
                    scores = answers
                else:
                    critical = CRITICAL[site] * model.strength * (1 + 0.06 * t)
                    lost = 0.01 * (record.result.sparsity / critical) ** 3
                    scores = np.where(random.random(number) < lost, 0.0, answers)
                result = replace(record.result, score=float(scores.mean()), examples=number)
                record = replace(record, result=result)
                if (of := (groups or {}).get(task)) and len(of) == 2:
                    members = tuple(name for name, its in groups.items() if its[0] == of[0])
                    record = replace(record, task=TaskLabel(task, TaskGroup(of[0], of[1], members)))
                store.write_trial(record, scores, answer_labels(scores) if labelled else NO_LABELS)
    store.write_resolved({
        "tasks": list(configs.values()),
        "models": [f.identity.to_json() for f in found],
        "resolved_models": [f.to_json() for f in found],
    })  # fmt: skip
    return store


def answer_labels(scores):
    """Return IDs and answers that agree with scores of 0 and 1."""
    ids = tuple(f"question-{index}" for index in range(len(scores)))
    return SampleLabels(ids, tuple("right" if score else "wrong" for score in scores))


def _record(model, own, task, site, rule, generates):
    """A finished trial whose counts add up."""
    phases = ("prefill", "generation") if generates else ("prefill",)
    turned = 0.0 if rule is None else (1 - rule.value) ** 0.5
    rows = []
    for phase in phases if site else ():
        for layer in range(model.layers):
            for vector in VECTORS.get(site, (site,)):
                for expert in range(model.experts) or [None]:
                    for step in range(model.steps) or [None]:
                        rows.append(_row(model, vector, phase, layer, expert, step, turned))
    lengthened = {}
    if generates:
        lengthened = {"generated_tokens": 60 + 80 * turned, "limit_hit": 0.02 + 0.5 * turned, "prompt_tokens": 20.0}
    dropped, total = sum(row.dropped for row in rows), sum(row.total for row in rows)
    return TrialRecord(
        identity=TrialIdentity(own, task) if site is None else TrialIdentity(own, task, site, rule, None, "f"),
        model=ModelLabel(model.name, "hub", model.parameters, model.active, model.device),
        task=TaskLabel(task["task"]),
        result=TrialResult("acc", 0.0, 0, dropped, total, {"acc": 0.5, **lengthened}),
        counts=tuple(rows),
        skippable_macs={v: SKIPPED[v] for v in VECTORS.get(site, (site,))} if site else {},
        seconds=1.0,
        provenance=Provenance({"torch": "2.13.0"}, "3.11.7", "a processor", 2, ("H100", "H100")),
    )


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
    weight = None if expert is None else tokens / 6000
    dropped = int(total * min(level, 1.0))
    return SparsityCount(layer, f"layers.{layer}", vector, expert, phase, step, dropped, total, tokens, weight)


SMALL = Model("fam-100m", 100_000_000)
LARGE = Model("fam-1b", 1_000_000_000, strength=1.4)
MIXTURE = Model("mix-7b-a1b", 7_000_000_000, layers=3, experts=8, active=1_000_000_000)


def keep_sparse_trials(store, keep):
    """Delete the sparse trials for which ``keep`` returns False, with their scores."""
    for record in list(store.trials()):
        if record.identity.site and not keep(record):
            store.trial_path(record.key).unlink()
            for path in (store.folder / "samples").glob(f"{record.key}*"):
                path.unlink()


def change_results(store, task, change, **fields):
    """Replace the scores of a task's trials by ``change(scores, record)``, and further fields of their results."""
    for record in list(store.trials()):
        if record.task.name != task:
            continue
        scores = change(store.samples(record), record)
        result = replace(record.result, score=float(scores.mean()), examples=len(scores), **fields)
        store.trial_path(record.key).unlink()
        for path in (store.folder / "samples").glob(f"{record.key}*"):
            path.unlink()
        store.write_trial(replace(record, result=result), scores)
