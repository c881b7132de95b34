"""Where in a model the sparsity is: by layer, expert and denoising step; and what was generated at each point.

Counts are added up before they are divided: over experts, steps and tasks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsedial.study.joined import Record

Row = dict[str, Any]
LABELS = ("model", "rule", "layers", "task", "site")  # of a curve, carried by each of its rows
OUTLIER = 3.0  # robust standard deviations from its layer's median
FEWEST = 5  # experts with data in a layer, for one of them to be called an outlier
SEEN = 50  # tokens that an expert saw, for it to be compared with the others
EVERY = "all"  # the state of tokens whatever their state
ALIKE = ("compared", "consecutive", "drift")
GENERATION = ("generated_tokens", "limit_hit")


def near(records: Sequence[Record], sparsity: float) -> list[Record]:
    """The records (of all tasks) at the one measured dial value whose sparsity is nearest."""
    nearest = min(records, key=lambda r: abs(r["result"]["sparsity"] - sparsity))["identity"]["rule"]["value"]
    return [r for r in records if r["identity"]["rule"]["value"] == nearest]


def layer_rows(label: Row, records: Sequence[Record]) -> list[Row]:
    """Sparsity of each layer and vector by phase, at one dial value."""
    counts = _counted(records, ("phase", "site", "layer"))
    return [
        _about(label, records)
        | {"vector": vector, "phase": phase, "layer": layer, "sparsity": c["dropped"] / c["total"]}
        for (phase, vector, layer), c in counts.items()
        if c["total"]
    ]


def expert_rows(label: Row, records: Sequence[Record], experts: int) -> list[Row]:
    """Sparsity of each expert of each layer by phase, at one dial value; none for a dense model.

    ``tokens`` is how many were routed to it, ``share`` their share of the layer's, ``weight`` its share of the
    routing weight. An expert that saw no token has no sparsity: it is not 0. ``robust_z`` is how far it lies from
    the layer's median (see `robust_z`; 0 where it saw fewer than `SEEN` tokens), and beyond `OUTLIER` it is one.

    Args:
        experts: how many a layer has.
    """
    routed = [row for row in _stats(records) if row["expert"] is not None]
    counts = _counted(records, ("phase", "site", "layer", "expert"), routed)
    rows = []
    for phase, vector, layer in dict.fromkeys(key[:3] for key in counts):
        mine = [counts.get((phase, vector, layer, e), {}) for e in range(experts)]
        tokens = [c.get("tokens", 0) for c in mine]
        sparsity = np.array([c["dropped"] / c["total"] if c.get("total") else np.nan for c in mine])
        z = robust_z(np.where(np.array(tokens) < SEEN, np.nan, sparsity) if any(tokens) else sparsity)
        for e, c in enumerate(mine):
            rows.append(
                _about(label, records)
                | {
                    "vector": vector,
                    "phase": phase,
                    "layer": layer,
                    "expert": e,
                    "sparsity": sparsity[e],
                    "tokens": tokens[e],
                    "share": tokens[e] / sum(tokens) if sum(tokens) else np.nan,
                    "weight": c["weighted"] / c["tokens"] if c.get("tokens") else np.nan,
                    "robust_z": z[e],
                    "outlier": bool(abs(z[e]) > OUTLIER),
                }
            )
    return rows


def step_rows(label: Row, records: Sequence[Record]) -> list[Row]:
    """Sparsity of each layer at each denoising step, at one dial value; none where there are no steps."""
    stepped = [row for row in _stats(records) if row["step"] is not None]
    counts = _counted(records, ("site", "step", "layer"), stepped)
    return [
        _about(label, records) | {"vector": vector, "step": step, "layer": layer, "sparsity": c["dropped"] / c["total"]}
        for (vector, step, layer), c in counts.items()
        if c["total"]
    ]


def likeness_rows(label: Row, records: Sequence[Record]) -> list[Row]:
    """Along the denoising steps, by vector and state of the tokens: sparsity, and how alike kept sets are.

    ``state`` is ``masked`` (still to be filled in), ``revealed``, or ``all``. ``consecutive`` and ``drift`` are the
    mean Jaccard index over tokens and layers, with the step before and with the first; NaN in the first step.
    """
    counts: dict[tuple[str, int, str], dict[str, float]] = {}
    for row in (row for record in records for row in record.get("steps", ())):
        for state in (row["state"], EVERY):
            c = counts.setdefault((row["site"], row["step"], state), dict.fromkeys(("dropped", "total", *ALIKE), 0.0))
            c["dropped"] += row["dropped"]
            c["total"] += row["total"]
            c["compared"] += row["compared"]
            for name in ALIKE[1:]:
                c[name] += row["compared"] * (row[name] or 0.0)
    return [
        _about(label, records)
        | {"vector": vector, "step": step, "state": state, "sparsity": c["dropped"] / c["total"]}
        | {name: c[name] / c["compared"] if c["compared"] else np.nan for name in ALIKE[1:]}
        for (vector, step, state), c in sorted(counts.items())
    ]


def generated_rows(label: Row, dense: Record, records: Sequence[Record]) -> list[Row]:
    """What was generated under each dial value and by the dense model (p is then NaN): length, limit hits, sparsity.

    None where the task generates nothing.
    """
    if GENERATION[0] not in dense["result"]["details"]:
        return []
    rows = []
    for record in (dense, *records):
        phases = {key[0]: c for key, c in _counted([record], ("phase",)).items()}
        details = record["result"]["details"]
        rows.append(
            {name: label[name] for name in LABELS}
            | {"p": np.nan if record is dense else record["identity"]["rule"]["value"]}
            | {name: details.get(name, np.nan) for name in GENERATION}
            | {
                phase: phases[phase]["dropped"] / phases[phase]["total"] if phase in phases else np.nan
                for phase in ("prefill", "generation")
            }
        )
    return rows


def experts_of(records: Iterable[Record]) -> int:
    """How many experts a layer has, as far as any of a model's trials has seen; 0 for a dense model."""
    return 1 + max((row["expert"] for row in _stats(records) if row["expert"] is not None), default=-1)


def robust_z(values: np.ndarray) -> np.ndarray:
    """How many robust standard deviations each value lies from the median: (v - median) / (1.4826 * MAD).

    0 where nothing can be said: NaN, fewer than `FEWEST` values, or more than half of them the same.

    >>> robust_z(np.array([0.4, 0.41, 0.39, 0.42, 0.38, 0.9])).round(1).tolist()
    [-0.2, 0.2, -0.7, 0.7, -1.1, 22.3]
    """
    known = values[~np.isnan(values)]
    if len(known) < FEWEST:
        return np.zeros(len(values))
    spread = 1.4826 * np.median(np.abs(known - np.median(known)))
    return np.nan_to_num((values - np.median(known)) / spread) if spread > 0 else np.zeros(len(values))


def _about(label: Row, records: Sequence[Record]) -> Row:
    return {name: label[name] for name in LABELS} | {"p": records[0]["identity"]["rule"]["value"]}


def _stats(records: Iterable[Record]) -> Iterable[Mapping[str, Any]]:
    return (row for record in records for row in record["stats"])


def _counted(
    records: Iterable[Record], by: Sequence[str], rows: Iterable[Mapping[str, Any]] | None = None
) -> dict[tuple[Hashable, ...], dict[str, float]]:
    """Dropped, total, tokens and token-weighted routing weight of the records' rows, added up."""
    counts: dict[tuple[Hashable, ...], dict[str, float]] = {}
    for row in _stats(records) if rows is None else rows:
        key = tuple(row[name] for name in by)
        c = counts.setdefault(key, {"dropped": 0, "total": 0, "tokens": 0, "weighted": 0.0})
        tokens = row.get("tokens") or 0
        c["dropped"] += row["dropped"]
        c["total"] += row["total"]
        c["tokens"] += tokens
        c["weighted"] += tokens * (row.get("weight") or 0.0)
    return counts
