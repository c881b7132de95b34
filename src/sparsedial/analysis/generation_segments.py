"""Tokens, sparsity and ends of generated texts by segment: the prompt, the thinking and the answer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sparsedial.analysis.breakdowns import Row, label_columns
from sparsedial.analysis.count_sums import CountSum
from sparsedial.analysis.retention_curves import LabelledCurve
from sparsedial.hooks.forward_context import ANSWER, GENERATION, PREFILL, THINKING
from sparsedial.study.records import SparsityCount, TrialRecord


def segment_rows(curve: LabelledCurve) -> list[Row]:
    """Return the statistics of each segment at each measured point. There are no rows if the task generates no text.

    Args:
        curve: The curve of one task.

    Returns:
        The columns of ``segments.csv``, see docs/output-tables.md. The dense model comes first, with p = NaN.
    """
    if "prompt_tokens" not in curve.dense.result.details:
        return []
    rows = []
    for trial in (curve.dense, *curve.trials):
        for row in _trial_rows(trial):
            rows.append({**label_columns(curve.label), "p": trial.p, **row})
    return rows


def _trial_rows(trial: TrialRecord) -> list[Row]:
    details = trial.result.details
    prefill = _sum_counts(trial.counts, PREFILL, None).sparsity
    generation = _sum_counts(trial.counts, GENERATION, None).sparsity
    limit_hit = details.get("limit_hit", np.nan)
    rows = [
        _make_row(PREFILL, details.get("prompt_tokens", np.nan), prefill),
        _make_row(GENERATION, details.get("generated_tokens", np.nan), generation, limit_hit),
    ]
    if "thinking_tokens" not in details:
        return rows
    in_thinking = details["limit_hit_thinking"]
    thinking = _sum_counts(trial.counts, GENERATION, THINKING).sparsity
    answer = _sum_counts(trial.counts, GENERATION, ANSWER).sparsity
    return [
        *rows,
        {**_make_row(THINKING, details["thinking_tokens"], thinking, in_thinking), "unclosed": details["unclosed"]},
        _make_row(ANSWER, details["answer_tokens"], answer, limit_hit - in_thinking),
    ]


def _make_row(segment: str, tokens: float, sparsity: float, limit_hit: float = np.nan) -> Row:
    return {"segment": segment, "tokens": tokens, "sparsity": sparsity, "limit_hit": limit_hit, "unclosed": np.nan}


def _sum_counts(counts: Iterable[SparsityCount], phase: str, segment: str | None) -> CountSum:
    """Return the sum of the counts of a phase, of one segment or of all."""
    total = CountSum()
    for count in counts:
        if count.phase == phase and segment in (None, count.segment):
            total.add(count)
    return total
