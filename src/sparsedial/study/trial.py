"""One trial: a model, a site, a rule, a task; its identity, and its evaluation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparsedial.errors import TaskError
from sparsedial.ffn import FFN, FFNs, skippable
from sparsedial.models import LanguageModel
from sparsedial.rules import Rule
from sparsedial.sparsify import sparsify
from sparsedial.study.store import digest
from sparsedial.tasks.base import Progress, Task, no_progress


def identity(
    model: dict[str, Any],
    task: dict[str, Any],
    ffns: str,
    site: str | None,
    rule: dict[str, Any] | None,
    layers: tuple[int, ...] | None,
) -> dict[str, Any]:
    """A trial's identity out of those of its parts; ``site`` and ``rule`` are None for the dense model."""
    return {
        "model": model,
        "task": task,
        "site": site,
        "rule": rule,
        "layers": None if layers is None or site is None else list(layers),
        "ffns": None if site is None else ffns,
    }


def ffns_digest(ffns: FFNs, layers: tuple[int, ...] | None) -> str:
    """Which FFNs are sparsified, as a sha256."""
    return digest([[f.layer, f.expert, dict(f.names)] for f in ffns if layers is None or f.layer in layers])


@dataclass(frozen=True)
class Trial:
    """One evaluation: ``site`` and ``rule`` are None for the dense model."""

    task: Task
    site: str | None = None
    rule: Rule | None = None
    layers: tuple[int, ...] | None = None

    def identity(self, lm: LanguageModel, ffns: FFNs) -> dict[str, Any]:
        """Everything that moves the number; its sha256 is the trial's key."""
        rule = None if self.rule is None else self.rule.to_json()
        return identity(
            lm.identity(), self.task.identity(), ffns_digest(ffns, self.layers), self.site, rule, self.layers
        )

    def run(
        self, lm: LanguageModel, ffns: FFNs, examples: dict[str, Any], progress: Progress = no_progress
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Evaluate, and return the record to keep and the per-example scores.

        Raises:
            TaskError: the scores are not finite or not as many as the examples.
            NonFiniteError: a NaN or Inf was seen among the activations.
        """
        began = time.time()
        if self.site is None or self.rule is None:
            scores, rows = self.task.score(lm, examples, None, progress), []
        else:
            with sparsify(lm.model, self.site, self.rule, layers=self.layers, ffns=ffns) as dial:
                scores = self.task.score(lm, examples, dial, progress)
            rows = _plain(dial.stats())
        if not len(scores.values) or not np.isfinite(scores.values).all():
            raise TaskError(
                f"task {self.task.name}: {len(scores.values)} scores, some not finite; nothing is kept of it"
            )
        dropped, total = (sum(int(r[k]) for r in rows) for k in ("dropped", "total"))
        identity = self.identity(lm, ffns)
        record = {
            "key": digest(identity),
            "identity": identity,
            "labels": {
                "model": lm.source.name,
                "origin": lm.source.origin,
                "parameters": lm.parameters,
                "active_parameters": _active(lm.parameters, ffns),
                "device": lm.device.type,
                "task": self.task.name,
                **_group(self.task),
            },
            "result": {
                "metric": scores.metric,
                "score": scores.mean,
                "examples": len(scores.values),
                "details": dict(scores.details),
                "dropped": dropped,
                "total": total,
                "sparsity": dropped / total if total else 0.0,
            },
            "stats": rows,
            "skippable": _skippable(
                [f for f in ffns if self.layers is None or f.layer in self.layers], self.site, rows
            ),
            **({} if scores.steps is None else {"steps": _plain(scores.steps)}),
            "seconds": round(time.time() - began, 3),
        }
        return record, scores.values


def _plain(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Its rows, as JSON has them."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _group(task: Task) -> dict[str, Any]:
    """The group that the task is averaged in before tasks are averaged."""
    group = getattr(task, "group", None)
    return {} if group is None or group.by_size is None else {"group": asdict(group)}


def _active(parameters: int, ffns: Iterable[FFN]) -> int | None:
    """How many of these parameters a token goes through; None where experts are not seen to be routed to."""
    idle = 0.0
    for f in ffns:
        if f.active is None:
            return None
        idle += (1 - f.active) * sum(f.weights)
    return parameters - round(idle)


def _skippable(ffns: list[FFN], site: str | None, rows: Iterable[Mapping[Hashable, Any]]) -> dict[str, float]:
    """`skippable` over all these FFNs, each counted by its multiplications.

    An expert's are those of the tokens that were routed to it: it is the active weights that a runtime reads.
    """
    if site is None:
        return {}
    shares = [skippable(f, site) for f in ffns]
    tokens = Counter[str]()
    for row in rows:
        tokens[row["module"]] += row["tokens"]
    most = max(tokens.values())
    cost = [sum(f.weights) * (tokens[f.name] / most) for f in ffns]
    return {v: sum(c * s[v] for c, s in zip(cost, shares, strict=True)) / sum(cost) for v in shares[0]}
