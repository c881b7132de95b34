"""Several studies read as one: every trial once, each from the store that holds it; what is wrong is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from sparsedial.errors import SpecError, StoreError
from sparsedial.ffn import SITES
from sparsedial.study.fsck import fsck
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store, digest

Record = dict[str, Any]
ALIKE = 10  # problems of one kind that are told one by one
SEARCH, GRID, EARLIER = "search", "grid", "earlier"


@dataclass
class Joined:
    """The trials of several studies.

    Attributes:
        records: each finished trial that its study asks for, once.
        specs: what each study asks for. problems: what is wrong with them, a sentence each.
        others: how many finished trials are of other settings, and so left out.
    """

    records: list[Record] = field(default_factory=list)
    specs: list[StudySpec] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    others: int = 0
    _from: dict[str, tuple[Store, StudySpec]] = field(default_factory=dict)

    def samples(self, record: Record) -> np.ndarray:
        """The per-example scores of a trial, float64 ``[N]``.

        Raises:
            StoreError: they are missing or damaged.
        """
        return self._from[record["key"]][0].samples(record)

    def chosen_by(self, record: Record) -> str:
        """Why this dial value was measured: the ``search`` chose it, the ``grid`` has it, or an ``earlier`` one had."""
        grid = self._from[record["key"]][1].values
        return SEARCH if grid is None else GRID if record["identity"]["rule"]["value"] in grid else EARLIER

    def add(self, store: Store, known: dict[str, Record], name: str = "") -> None:
        """Take in a store's trials; ``known`` holds, by key, those of all stores so far, ``name`` starts a problem."""
        spec, resolved = StudySpec.from_json(store.read_spec()), store.read_resolved()
        self.specs.append(spec)
        finished = list(store.trials())
        asked = [r for r in finished if _belongs(r, spec, resolved)]
        self.others += len(finished) - len(asked)
        self.problems += [f"{name}{text}" for text in _wrong(store)]
        if not asked:
            self.problems.append(f"{str(store.folder)!r}: no finished trial of its study.json. Run it first.")
        for record in asked:
            first = known.setdefault(record["key"], record)
            if first is record:
                self.records.append(record)
                self._from[record["key"]] = store, spec
            elif first["result"] != record["result"] or first["samples_sha256"] != record["samples_sha256"]:
                self.problems.append(
                    f"{str(store.folder)!r}: trial {record['key'][:12]} has other numbers than in "
                    f"{str(self._from[record['key']][0].folder)!r}, which are shown"
                )


def join(stores: Sequence[Store]) -> Joined:
    """Read the trials of all these studies.

    Raises:
        StoreError: a directory cannot be read, or none has a finished trial.
    """
    joined, known = Joined(), dict[str, Record]()
    distinct = list({store.folder.resolve(): store for store in stores}.values())
    for store in distinct:
        joined.add(store, known, f"{store.folder}: " if len(distinct) > 1 else "")
    if not joined.records:
        raise StoreError("; ".join(joined.problems) or "no study to report on: expected at least one directory")
    return joined


def retained(specs: Sequence[StudySpec]) -> float:
    """The share of the dense score that these studies are to keep.

    Raises:
        SpecError: they do not agree.
    """
    asked = sorted({spec.retain for spec in specs})
    if len(asked) > 1:
        raise SpecError(f"the studies keep different shares of the dense score ({asked}): say which with --retain")
    return asked[0]


def setting(record: Record) -> str:
    """Trials of one setting are comparable: same model, same task."""
    return digest({"model": record["identity"]["model"], "task": record["identity"]["task"]})


def device(record: Record) -> str:
    """What a trial ran on."""
    kind = str(record["labels"].get("device", "an unknown device"))
    gpus = record["provenance"].get("gpus") if kind == "cuda" else None
    return ", ".join(sorted(set(gpus))) if gpus else kind


def _wrong(store: Store) -> list[str]:
    """What `fsck` finds, but for harmless strays; of many alike, the first few and how many there are."""
    said: list[str] = []
    problems = [problem for problem in fsck(store) if problem.kind != "stray"]
    for kind, group in groupby(problems, key=lambda problem: problem.kind):
        alike = [f"{kind}: {problem.text}" for problem in group]
        said += alike[:ALIKE]
        if len(alike) > ALIKE:
            said.append(f"{kind}: {len(alike) - ALIKE} more; `sparsedial fsck` lists them all")
    return said


def _belongs(record: Record, spec: StudySpec, resolved: dict[str, Any] | None) -> bool:
    """Whether a trial is of the settings that its study asked for last."""
    identity = record["identity"]
    if resolved is None:
        return True
    if identity["model"] not in resolved["models"] or identity["task"] not in resolved["tasks"]:
        return False
    if identity["site"] is None:
        return True
    found = [f["ffns"] for f in resolved.get("found", ()) if f["identity"] == identity["model"]]
    if found and identity.get("ffns") not in found:
        return False
    asked = identity["rule"]["rule"] in spec.rules and identity["layers"] == (spec.layers and list(spec.layers))
    return asked and identity["site"] in (spec.sites or SITES)
