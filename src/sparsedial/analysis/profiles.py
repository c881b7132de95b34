"""Sparsity by layer and over the experts of each layer, at every measured value of p."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from operator import itemgetter
from statistics import fmean
from typing import Any

import numpy as np

from sparsedial.analysis.breakdowns import Row, expert_rows, label_columns, layer_rows
from sparsedial.analysis.retention_curves import LabelledCurve

HISTOGRAM_BINS = 25
"""Bins of equal width between sparsity 0 and 1."""


def layer_profile_rows(curve: LabelledCurve) -> Iterator[Row]:
    """Return the sparsity of all layers at each value of p.

    Args:
        curve: The curve of one task.

    Yields:
        Row: One row per value of p, phase and vector: model, rule, layers, task, site, p, vector, phase, layer (list of
            indices) and sparsity (list of fractions).
    """
    for trial in curve.trials:
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in layer_rows(curve.label, [trial]):
            groups[row["vector"], row["phase"]].append(row)
        for (vector, phase), rows in groups.items():
            yield {
                **label_columns(curve.label),
                "p": trial.p,
                "vector": vector,
                "phase": phase,
                "layer": list(map(itemgetter("layer"), rows)),
                "sparsity": list(map(itemgetter("sparsity"), rows)),
            }


def expert_profile_rows(curve: LabelledCurve, experts: int) -> Iterator[Row]:
    """Return the lowest, the mean and the highest sparsity over the experts of each layer, at each value of p.

    Args:
        curve: The curve of one task, or of an average over tasks. There are no rows for a dense model.
        experts: Number of experts of a layer.

    Yields:
        Row: One row per value of p, phase and vector: model, rule, layers, task, site, p, vector, phase, layer (list of
            indices), lowest, mean and highest (lists of fractions), and histogram (number of experts, of all layers, in
            each of `HISTOGRAM_BINS` bins of sparsity). Experts without tokens are left out.
    """
    for p in sorted({trial.p for trial in curve.trials if trial.p is not None}, reverse=True):
        trials = [trial for trial in curve.trials if trial.p == p]
        groups: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in expert_rows(curve.label, trials, experts):
            if np.isfinite(row["sparsity"]):
                groups[row["vector"], row["phase"]][row["layer"]].append(row["sparsity"])
        for (vector, phase), by_layer in groups.items():
            yield {
                **label_columns(curve.label),
                "p": p,
                "vector": vector,
                "phase": phase,
                **_summarize_experts(by_layer),
            }


def _summarize_experts(by_layer: dict[int, list[float]]) -> dict[str, Any]:
    values = list(by_layer.values())
    histogram, _ = np.histogram(np.concatenate(values), bins=HISTOGRAM_BINS, range=(0.0, 1.0))
    return {
        "layer": list(by_layer),
        "lowest": list(map(min, values)),
        "mean": list(map(fmean, values)),
        "highest": list(map(max, values)),
        "histogram": histogram.tolist(),
    }
