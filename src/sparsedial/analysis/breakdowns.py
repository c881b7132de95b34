"""Rows of the tables of sparsity by layer, expert and denoising step, and of the generated texts.

Counts are summed over experts, steps and tasks before the sparsity is computed from the sums.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, cast

import numpy as np

from sparsedial.analysis.retention_curves import CurveLabel
from sparsedial.study.records import SparsityCount, StepOverlapCount, TrialRecord

Row = dict[str, Any]
Key = tuple[Any, ...]

OUTLIER_Z = 3.0
"""An expert is an outlier if it lies further than this many robust standard deviations from its layer's median."""
MIN_EXPERTS_FOR_OUTLIERS = 5
"""Outliers are determined only in layers with at least this many experts that have data."""
MIN_TOKENS_FOR_OUTLIERS = 50
"""An expert is compared with the other experts of its layer only if it received at least this many tokens."""
MAD_TO_STANDARD_DEVIATION = 1.4826
"""Factor that converts the median absolute deviation of a normal distribution to its standard deviation."""
_LABEL_COLUMNS = ("model", "rule", "layers", "task", "site")
ANY_STATE = "all"
"""Value of the column ``state`` in rows that cover masked and revealed tokens together."""


@dataclass
class CountSum:
    """Sum of sparsity counts.

    Attributes:
        dropped: Number of dropped entries.
        total: Number of entries.
        tokens: Number of tokens.
        weighted_tokens: Sum over the counts of their tokens times the expert's share of the layer's routing weight.
    """

    dropped: int = 0
    total: int = 0
    tokens: int = 0
    weighted_tokens: float = 0.0

    @property
    def sparsity(self) -> float:
        """Dropped entries divided by all entries. NaN without entries."""
        return _ratio(self.dropped, self.total)

    def add(self, count: SparsityCount) -> None:
        """Add one count.

        Args:
            count: Counts of one vector in one trial.
        """
        self.dropped += count.dropped
        self.total += count.total
        self.tokens += count.tokens
        self.weighted_tokens += count.tokens * (count.weight or 0.0)


@dataclass
class OverlapSum:
    """Sum of the overlap counts of several layers and trials.

    Attributes:
        dropped: Number of dropped entries.
        total: Number of entries.
        compared: Number of tokens whose kept set was compared with that of an earlier denoising step.
        overlap_previous: Sum over compared tokens of the Jaccard index with the previous step.
        overlap_first: Sum over compared tokens of the Jaccard index with the first step.
    """

    dropped: int = 0
    total: int = 0
    compared: int = 0
    overlap_previous: float = 0.0
    overlap_first: float = 0.0

    def add(self, count: StepOverlapCount) -> None:
        """Add one count.

        Args:
            count: Overlap of the kept sets of one vector in one denoising step.
        """
        self.dropped += count.dropped
        self.total += count.total
        self.compared += count.compared
        self.overlap_previous += count.compared * (count.overlap_previous or 0.0)
        self.overlap_first += count.compared * (count.overlap_first or 0.0)


def nearest_trials(trials: Sequence[TrialRecord], sparsity: float) -> list[TrialRecord]:
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
        One row per phase, vector and layer: the columns of `_curve_columns`, and vector, phase, layer, sparsity.
    """
    rows = []
    for (phase, vector, layer), count in _sum_counts(_counts(trials), ("phase", "vector", "layer")).items():
        if count.total:
            columns = {"vector": vector, "phase": phase, "layer": layer, "sparsity": count.sparsity}
            rows.append({**_curve_columns(label, trials), **columns})
    return rows


def expert_rows(label: CurveLabel, trials: Sequence[TrialRecord], experts: int) -> list[Row]:
    """Return the sparsity of each expert in each layer, by phase. There are no rows for a dense model.

    An expert that saw no token has sparsity NaN, not 0.

    Args:
        label: Label of the curve.
        trials: Trials at one value of p.
        experts: Number of experts of a layer.

    Returns:
        One row per phase, vector, layer and expert: the columns of `_curve_columns`, and vector, phase, layer, expert,
        sparsity, tokens (routed to the expert), share (of the layer's routed tokens), weight (share of the layer's
        routing weight), robust_z (see `robust_z`) and outlier.
    """
    routed = filter(_is_routed, _counts(trials))
    sums = _sum_counts(routed, ("phase", "vector", "layer", "expert"))
    rows = []
    by_layer: dict[Key, list[CountSum]] = {}
    for (*layer_key, expert), count in sums.items():
        layer_sums = by_layer.setdefault(tuple(layer_key), [CountSum()] * experts)
        layer_sums[cast("int", expert)] = count
    for (phase, vector, layer), layer_sums in by_layer.items():
        tokens = np.array([count.tokens for count in layer_sums])
        z_scores = _expert_z_scores(np.array([count.sparsity for count in layer_sums]), tokens)
        for expert, count in enumerate(layer_sums):
            rows.append(
                {
                    **_curve_columns(label, trials),
                    "vector": vector,
                    "phase": phase,
                    "layer": layer,
                    "expert": expert,
                    "sparsity": count.sparsity,
                    "tokens": count.tokens,
                    "share": _ratio(count.tokens, int(tokens.sum())),
                    "weight": _ratio(count.weighted_tokens, count.tokens),
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
        One row per vector, step and layer: the columns of `_curve_columns`, and vector, step, layer, sparsity.
    """
    stepped = filter(_has_step, _counts(trials))
    rows = []
    for (vector, step, layer), count in _sum_counts(stepped, ("vector", "step", "layer")).items():
        if count.total:
            columns = {"vector": vector, "step": step, "layer": layer, "sparsity": count.sparsity}
            rows.append({**_curve_columns(label, trials), **columns})
    return rows


def step_overlap_rows(label: CurveLabel, trials: Sequence[TrialRecord]) -> list[Row]:
    """Return sparsity and overlap of kept sets along the denoising steps, by vector and state of the tokens.

    Args:
        label: Label of the curve.
        trials: Trials at one value of p.

    Returns:
        One row per vector, step and state ("masked", "revealed" or "all"): the columns of `_curve_columns`, and vector,
        step, state, sparsity, overlap_previous and overlap_first (mean Jaccard index over tokens and layers; NaN in the
        first step).
    """
    sums: dict[tuple[str, int, str], OverlapSum] = defaultdict(OverlapSum)
    for count in _overlap_counts(trials):
        for state in (count.state, ANY_STATE):
            sums[count.vector, count.step, state].add(count)
    rows = []
    for (vector, step, state), total in sorted(sums.items(), key=lambda item: item[0]):
        rows.append(
            {
                **_curve_columns(label, trials),
                "vector": vector,
                "step": step,
                "state": state,
                "sparsity": total.dropped / total.total,
                "overlap_previous": _ratio(total.overlap_previous, total.compared),
                "overlap_first": _ratio(total.overlap_first, total.compared),
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
        phases = _sum_counts(record.counts, ("phase", "phase"))  # attrgetter returns tuples only for several names
        rows.append(
            {
                **_label_columns(label),
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
    for count in _counts(trials):
        if count.expert is not None:
            experts = max(experts, count.expert + 1)
    return experts


def robust_z(values: np.ndarray) -> np.ndarray:
    """Return how many robust standard deviations each value lies from the median.

    The robust standard deviation is 1.4826 times the median absolute deviation.

    Args:
        values: Float ``[N]``, NaN where there is no data.

    Returns:
        Float ``[N]``. 0 where the value is NaN. All 0 if there are fewer than `MIN_EXPERTS_FOR_OUTLIERS` values, or if
        the median absolute deviation is 0.

    Example:
        >>> robust_z(np.array([0.4, 0.41, 0.39, 0.42, 0.38, 0.9])).round(1).tolist()
        [-0.2, 0.2, -0.7, 0.7, -1.1, 22.3]
    """
    known = values[~np.isnan(values)]
    if len(known) < MIN_EXPERTS_FOR_OUTLIERS:
        return np.zeros(len(values))
    median = np.median(known)
    spread = MAD_TO_STANDARD_DEVIATION * np.median(np.abs(known - median))
    if spread <= 0:
        return np.zeros(len(values))
    return np.nan_to_num((values - median) / spread)


def _is_routed(count: SparsityCount) -> bool:
    return count.expert is not None


def _has_step(count: SparsityCount) -> bool:
    return count.step is not None


def _expert_z_scores(sparsity: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return the robust z of each expert of a layer. It is 0 for experts with few tokens, if token counts are known."""
    if tokens.any():
        sparsity = np.where(tokens < MIN_TOKENS_FOR_OUTLIERS, np.nan, sparsity)
    return robust_z(sparsity)


def _ratio(part: float, whole: float) -> float:
    if not whole:
        return math.nan
    return part / whole


def _label_columns(label: CurveLabel) -> Row:
    row = label.to_row()
    return {name: row[name] for name in _LABEL_COLUMNS}


def _curve_columns(label: CurveLabel, trials: Sequence[TrialRecord]) -> Row:
    """Return the columns that all breakdowns share: model, rule, layers, task, site and p."""
    return {**_label_columns(label), "p": trials[0].p}


def _counts(trials: Iterable[TrialRecord]) -> Iterator[SparsityCount]:
    for record in trials:
        yield from record.counts


def _overlap_counts(trials: Iterable[TrialRecord]) -> Iterator[StepOverlapCount]:
    for record in trials:
        yield from record.step_overlap


def _sum_counts(counts: Iterable[SparsityCount], by: Sequence[str]) -> dict[Key, CountSum]:
    """Sum the counts that have equal values in the fields ``by``."""
    get_key = attrgetter(*by)
    sums: dict[Key, CountSum] = defaultdict(CountSum)
    for count in counts:
        sums[get_key(count)].add(count)
    return dict(sums)
