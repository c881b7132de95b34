"""The curve of the perplexity criterion, from the likelihoods that trials have stored for each example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sparsedial.curves.curve import Curve, curve_from_scores
from sparsedial.curves.perplexity import compare_likelihoods
from sparsedial.study.curve_from_trials import MIN_SPARSITY, join_blocks
from sparsedial.study.pooled_trials import PooledTrial, SampleReader
from sparsedial.tasks.base import LIKELIHOOD_COLUMNS, NLL, NLL_TOKENS
from sparsedial.tasks.example_blocks import ExampleBlock


def likelihood_curve(source: SampleReader, dense: PooledTrial, sparse: Sequence[PooledTrial]) -> Curve | None:
    """Return the negative log-likelihoods per token of the trials of one model, site, rule and task.

    The number of an example is its negative log-likelihood divided by the mean number of tokens of all examples, so
    that the mean over examples is the logarithm of the perplexity of the whole text.

    Args:
        source: Source of the table of examples.
        dense: The trial without a rule.
        sparse: The trials with a rule. Each may have scored a part of the examples.

    Returns:
        A curve with one point per sparse trial, where lower is better. None if a trial has stored no likelihoods, as
        trials of earlier versions and of tasks without a reference text, or if they have no examples in common.
    """
    ordered = sorted(sparse, key=lambda trial: trial.result.sparsity)
    blocks = []
    for trial in (dense, *ordered):
        columns = _read_blocks(source, trial)
        if columns is None:
            return None
        blocks.append(columns)
    dense_blocks = blocks[0]
    if not ordered or any(dense_blocks.keys().isdisjoint(trial) for trial in blocks[1:]):
        return None
    nll = list(map(_select_nll, blocks))
    matrix = join_blocks(nll[0], nll[1:])
    tokens = np.concatenate([table[NLL_TOKENS] for table in dense_blocks.values()])[: len(matrix)]
    if not matrix[:, 0].sum() > 0 or not tokens.sum() > 0:
        return None
    return curve_from_scores(
        sparsity=np.array([max(trial.result.sparsity, MIN_SPARSITY) for trial in ordered]),
        p=np.array([trial.p for trial in ordered]),
        matrix=matrix / tokens.mean(),
        higher_is_better=False,
    )


def perplexity_criterion_curve(source: SampleReader, dense: PooledTrial, sparse: Sequence[PooledTrial]) -> Curve | None:
    """Return the curve whose critical sparsity at `RETAIN_BY_PERPLEXITY` is that of the perplexity criterion.

    Args:
        source: Source of the table of examples.
        dense: The trial without a rule.
        sparse: The trials with a rule.

    Returns:
        See `sparsedial.curves.perplexity.compare_likelihoods`. None if `likelihood_curve` is None.
    """
    measured = likelihood_curve(source, dense, sparse)
    return None if measured is None else compare_likelihoods(measured)


def _select_nll(blocks: Mapping[ExampleBlock, Mapping[str, np.ndarray]]) -> dict[ExampleBlock, np.ndarray]:
    selected = {}
    for block, table in blocks.items():
        selected[block] = table[NLL]
    return selected


def _read_blocks(source: SampleReader, trial: PooledTrial) -> dict[ExampleBlock, Mapping[str, np.ndarray]] | None:
    """Return the likelihoods of each block of examples, or None if one has none."""
    tables: dict[ExampleBlock, Mapping[str, np.ndarray]] = {}
    for block, record in trial.records_by_block().items():
        table = source.find_sample_table(record)
        if table is None or not set(LIKELIHOOD_COLUMNS) <= set(table.columns):
            return None
        tables[block] = {name: table[name].to_numpy(dtype=np.float64) for name in LIKELIHOOD_COLUMNS}
    return tables
