"""Rows of the tables of sparsity by layer, expert and denoising step, and of the generated texts.

Counts are summed over experts, steps and tasks before the sparsity is computed from the sums.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from sparsedial.analysis.count_sums import (
    CountSum,
    Key,
    OverlapSum,
    divide,
    overlap_counts,
    sparsity_counts,
    sum_counts,
)
from sparsedial.analysis.expert_outliers import OUTLIER_Z, expert_z_scores
from sparsedial.analysis.retention_curves import CurveLabel
from sparsedial.study.records import SparsityCount, TrialRecord

Row = dict[str, Any]
Trial = TypeVar("Trial", bound=TrialRecord)

_LABEL_COLUMNS = ("model", "rule", "layers", "task", "site")
ANY_STATE = "all"
"""Value of the column ``state`` in rows that cover masked and revealed tokens together."""


def nearest_trials(trials: Sequence[Trial], sparsity: float) -> list[Trial]:
    """Return the trials of all tasks at the value of p whose sparsity is nearest to a given one.

    Args:
        trials: Sparse trials of one curve. Must not be empty.
        sparsity: The sparsity to look for.

    Returns:
        All trials at that value of p.
    """
    nearest = min(trials, key=lambda record: abs(record.result.sparsity - sparsity))
    return [record for record in trials if record.p == nearest.p]


def layer_rows(label: CurveLabel, trials: Sequence[TrialRecord]) -> list[Row]:
    """Return the sparsity of each layer and vector, by phase.

    Args:
        label: Label of the curve.
        trials: Trials at one value of p.

    Returns:
        One row per phase, vector and layer: the columns of `curve_columns`, and vector, phase, layer, sparsity.
    """
    rows = []
    for (phase, vector, layer), count in sum_counts(sparsity_counts(trials), ("phase", "vector", "layer")).items():
        if count.total:
            columns = {"vector": vector, "phase": phase, "layer": layer, "sparsity": count.sparsity}
            rows.append({**curve_columns(label, trials), **columns})
    return rows


def expert_rows(label: CurveLabel, trials: Sequence[TrialRecord], experts: int) -> list[Row]:
    """Return the sparsity of each expert in each layer, by phase. There are no rows for a dense model.

    An expert that saw no token has sparsity NaN, not 0.

    Args:
        label: Label of the curve.
        trials: Trials at one value of p.
        experts: Number of experts of a layer.

    Returns:
        One row per phase, vector, layer and expert: the columns of `curve_columns`, and vector, phase, layer, expert,
        sparsity, tokens (routed to the expert), share (of the layer's routed tokens), weight (share of the layer's
        routing weight), robust_z (see `robust_z`) and outlier.
    """
    routed = filter(_is_routed, sparsity_counts(trials))
    sums = sum_counts(routed, ("phase", "vector", "layer", "expert"))
    rows = []
    by_layer: dict[Key, list[CountSum]] = {}
    for (*layer_key, expert), count in sums.items():
        layer_sums = by_layer.setdefault(tuple(layer_key), [CountSum()] * experts)
        layer_sums[cast("int", expert)] = count
    for (phase, vector, layer), layer_sums in by_layer.items():
        tokens = np.array([count.tokens for count in layer_sums])
        z_scores = expert_z_scores(np.array([count.sparsity for count in layer_sums]), tokens)
        for expert, count in enumerate(layer_sums):
            rows.append(
                {
                    **curve_columns(label, trials),
                    "vector": vector,
                    "phase": phase,
                    "layer": layer,
                    "expert": expert,
                    "sparsity": count.sparsity,
                    "tokens": count.tokens,
                    "share": divide(count.tokens, int(tokens.sum())),
                    "weight": divide(count.weighted_tokens, count.tokens),
                    "robust_z": z_scores[expert],
                    "outlier": bool(abs(z_scores[expert]) > OUTLIER_Z),
                }
            )
    return rows


def step_rows(label: CurveLabel, trials: Sequence[TrialRecord]) -> list[Row]:
    """Return the sparsity of each layer at each denoising step. There are no rows for models without such steps.

    Args:
        label: Label of the curve.
        trials: Trials at one value of p.

    Returns:
        One row per vector, step and layer: the columns of `curve_columns`, and vector, step, layer, sparsity.
    """
    stepped = filter(_has_step, sparsity_counts(trials))
    rows = []
    for (vector, step, layer), count in sum_counts(stepped, ("vector", "step", "layer")).items():
        if count.total:
            columns = {"vector": vector, "step": step, "layer": layer, "sparsity": count.sparsity}
            rows.append({**curve_columns(label, trials), **columns})
    return rows


def step_overlap_rows(label: CurveLabel, trials: Sequence[TrialRecord]) -> list[Row]:
    """Return sparsity and overlap of kept sets along the denoising steps, by vector and state of the tokens.

    Args:
        label: Label of the curve.
        trials: Trials at one value of p.

    Returns:
        One row per vector, step and state ("masked", "revealed" or "all"): the columns of `curve_columns`, and vector,
        step, state, sparsity, overlap_previous and overlap_first (mean Jaccard index over tokens and layers; NaN in the
        first step).
    """
    sums: dict[tuple[str, int, str], OverlapSum] = defaultdict(OverlapSum)
    for count in overlap_counts(trials):
        for state in (count.state, ANY_STATE):
            sums[count.vector, count.step, state].add(count)
    rows = []
    for (vector, step, state), total in sorted(sums.items(), key=lambda item: item[0]):
        rows.append(
            {
                **curve_columns(label, trials),
                "vector": vector,
                "step": step,
                "state": state,
                "sparsity": total.dropped / total.total,
                "overlap_previous": divide(total.overlap_previous, total.compared),
                "overlap_first": divide(total.overlap_first, total.compared),
            }
        )
    return rows


def generation_length_rows(label: CurveLabel, dense: TrialRecord, trials: Sequence[TrialRecord]) -> list[Row]:
    """Return the length of the generated texts at each value of p. There are no rows if the task generates no text.

    Args:
        label: Label of the curve.
        dense: The dense trial.
        trials: The sparse trials.

    Returns:
        One row per trial, the dense one first with p = NaN: model, rule, layers, task, site, p, generated_tokens
        (mean), limit_hit (share of texts), prefill and generation (sparsity in that phase).
    """
    if "generated_tokens" not in dense.result.details:
        return []
    rows = []
    for record in (dense, *trials):
        phases = sum_counts(record.counts, ("phase", "phase"))  # attrgetter returns tuples only for several names
        rows.append(
            {
                **label_columns(label),
                "p": record.p,
                "generated_tokens": record.result.details.get("generated_tokens", np.nan),
                "limit_hit": record.result.details.get("limit_hit", np.nan),
                "prefill": phases.get(("prefill", "prefill"), CountSum()).sparsity,
                "generation": phases.get(("generation", "generation"), CountSum()).sparsity,
            }
        )
    return rows


def count_experts(trials: Iterable[TrialRecord]) -> int:
    """Return the number of experts of a layer: one more than the highest index in the trials. 0 for a dense model.

    Args:
        trials: Trials of one model. They need not have the same site.
    """
    experts = 0
    for count in sparsity_counts(trials):
        if count.expert is not None:
            experts = max(experts, count.expert + 1)
    return experts


def _is_routed(count: SparsityCount) -> bool:
    return count.expert is not None


def _has_step(count: SparsityCount) -> bool:
    return count.step is not None


def label_columns(label: CurveLabel) -> Row:
    """Return the columns that say which curve a row belongs to: model, rule, layers, task and site.

    Args:
        label: Label of the curve.
    """
    row = label.to_row()
    return {name: row[name] for name in _LABEL_COLUMNS}


def curve_columns(label: CurveLabel, trials: Sequence[TrialRecord]) -> Row:
    """Return the columns that all breakdowns share: model, rule, layers, task, site and p.

    Args:
        label: Label of the curve.
        trials: Trials at one value of p.
    """
    return {**label_columns(label), "p": trials[0].p}
