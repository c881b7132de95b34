"""What generated texts cost at each sparsity, compared with those of the dense model.

Net work is the work of the feed-forward networks (FFNs) in decoding, relative to the dense model:
(1 - skippable share) times the number of generated tokens, divided by that of the dense model. A sparse model that
writes longer texts can cost more than it saves. The work of reading the prompts is not part of it, because it does not
depend on the texts. The work of attention is not counted at all.

The interval of the net work is that of the ratio of the tokens, a bootstrap over the examples, which both models have
answered. The skippable share is a mean over all tokens and layers, and is treated as exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsedial.analysis.breakdowns import Row, label_columns
from sparsedial.analysis.example_columns import SCORE, Columns, read_common_examples
from sparsedial.analysis.retention_curves import LabelledCurve
from sparsedial.analysis.trial_set import TrialSet
from sparsedial.curves.bootstrap import RESAMPLES, resample_scores
from sparsedial.hooks.forward_context import GENERATION, PREFILL
from sparsedial.study.curve_from_trials import WEIGHTED_BY_INSTRUCTIONS
from sparsedial.study.pooled_trials import PooledTrial
from sparsedial.study.records import TrialRecord
from sparsedial.tasks.base import GENERATION_COLUMNS

MORE = "more"
LESS = "less"
UNCLEAR = "unclear"
"""Verdicts: whether the net work is more than that of the dense model, less, or not decided by the interval."""

TOKENS, LIMIT_HIT, PROMPT_TOKENS = GENERATION_COLUMNS


@dataclass(frozen=True)
class TokenRatio:
    """Number of generated tokens, divided by that of the dense model.

    Attributes:
        value: The ratio over all examples.
        low: Lower end of its 95% interval. NaN if the lengths of single texts are not known.
        high: Upper end of its 95% interval.
    """

    value: float
    low: float = np.nan
    high: float = np.nan


def compare_tokens(dense: np.ndarray, sparse: np.ndarray) -> TokenRatio:
    """Return the ratio of two numbers of tokens on the same examples.

    Args:
        dense: Number of tokens of each example, float64 of shape [examples].
        sparse: The same of the sparse model.

    Returns:
        The ratio. Its interval is missing if there is only one example.

    Example:
        >>> ratio = compare_tokens(np.array([10.0, 20.0, 30.0]), np.array([20.0, 40.0, 60.0]))
        >>> round(ratio.value, 6), round(ratio.low, 6), round(ratio.high, 6)
        (2.0, 2.0, 2.0)
    """
    if len(dense) < 2:
        return TokenRatio(_divide(sparse.sum(), dense.sum()))
    sums = resample_scores([np.stack([dense, sparse], 1)], RESAMPLES, np.random.default_rng(0))
    low, high = np.quantile(sums[:, 1] / sums[:, 0], [0.025, 0.975])
    return TokenRatio(_divide(sparse.sum(), dense.sum()), float(low), float(high))


def skippable_share(record: TrialRecord, phase: str) -> float:
    """Return the share of the sparsified FFNs' multiply-accumulates in one phase that a runtime can skip.

    Args:
        record: A trial.
        phase: "prefill" or "generation". The share is 0 if the rule was not applied in this phase.
    """
    dropped: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for count in record.counts:
        if count.phase == phase:
            dropped[count.vector] += count.dropped
            total[count.vector] += count.total
    share = 0.0
    for vector, entries in total.items():
        if entries:
            share += record.skippable_macs[vector] * dropped[vector] / entries
    return share


def judge_net_work(low: float, high: float) -> str | None:
    """Return `MORE`, `LESS` or `UNCLEAR`, or None if there is no interval.

    Args:
        low: Lower end of the 95% interval of the net work.
        high: Its upper end.
    """
    if np.isnan(low) or np.isnan(high):
        return None
    if low > 1:
        return MORE
    return LESS if high < 1 else UNCLEAR


def generation_cost_rows(curve: LabelledCurve, trial_set: TrialSet) -> list[Row]:
    """Return what the generated texts of a task cost at each measured point. There are no rows if it generates none.

    Args:
        curve: The curve of one task.
        trial_set: The trials that the curve was read from.

    Returns:
        The columns of ``cost.csv``, see docs/output-tables.md. The dense model comes first, with p = NaN.
    """
    if TOKENS not in curve.dense.result.details:
        return []
    rows = [_make_row(curve, curve.dense, TokenRatio(1.0), None)]
    for trial in curve.trials:
        if TOKENS not in trial.result.details:
            continue
        examples = read_common_examples(trial_set, curve.dense, trial, (TOKENS, LIMIT_HIT))
        if examples is None:
            ratio = TokenRatio(_divide(trial.result.details[TOKENS], curve.dense.result.details[TOKENS]))
        else:
            dense, sparse = examples
            ratio = compare_tokens(dense[TOKENS], sparse[TOKENS])
        rows.append(_make_row(curve, trial, ratio, examples))
    return rows


def _make_row(
    curve: LabelledCurve, trial: PooledTrial, ratio: TokenRatio, examples: tuple[Columns, Columns] | None
) -> Row:
    details = trial.result.details
    kept = 1 - skippable_share(trial, GENERATION)
    return {
        **label_columns(curve.label),
        "p": trial.p,
        "sparsity": trial.result.sparsity,
        "score": trial.result.score,
        **_finished_scores(trial, examples),
        "examples": trial.result.examples,
        "prompt_tokens": details.get(PROMPT_TOKENS, np.nan),
        "generated_tokens": details[TOKENS],
        "limit_hit": details.get(LIMIT_HIT, np.nan),
        "token_ratio": ratio.value,
        "token_ratio_low": ratio.low,
        "token_ratio_high": ratio.high,
        "skippable_prefill": skippable_share(trial, PREFILL),
        "skippable_decoding": 1 - kept,
        "net_work": kept * ratio.value,
        "net_work_low": kept * ratio.low,
        "net_work_high": kept * ratio.high,
        "verdict": judge_net_work(kept * ratio.low, kept * ratio.high),
    }


def _finished_scores(trial: PooledTrial, examples: tuple[Columns, Columns] | None) -> dict[str, Any]:
    """Return the scores over the examples whose text the sparse model has finished."""
    missing = {"finished": np.nan, "score_finished": np.nan, "dense_score_finished": np.nan}
    if examples is None or WEIGHTED_BY_INSTRUCTIONS in trial.result.metric:
        return missing
    dense, sparse = examples
    finished = sparse[LIMIT_HIT] == 0
    if not finished.any():
        return {**missing, "finished": 0}
    return {
        "finished": int(finished.sum()),
        "score_finished": float(sparse[SCORE][finished].mean()),
        "dense_score_finished": float(dense[SCORE][finished].mean()),
    }


def _divide(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan


def costly_points(rows: Sequence[Row]) -> list[Row]:
    """Return the points at which sparsity is shown to cost more than it saves, in the order of their sparsity.

    Args:
        rows: Rows of `generation_cost_rows` of one curve.
    """
    costly = [row for row in rows if row["verdict"] == MORE]
    return sorted(costly, key=lambda row: float(row["sparsity"]))
