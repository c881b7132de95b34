"""Numbers of the single examples of trials, such as the lengths of their generated texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sparsedial.analysis.trial_set import TrialSet
from sparsedial.study.pooled_trials import PooledTrial
from sparsedial.study.records import TrialRecord

SCORE = "score"

Columns = Mapping[str, np.ndarray]


def read_common_examples(
    trial_set: TrialSet, dense: PooledTrial, sparse: PooledTrial, names: Sequence[str]
) -> tuple[Columns, Columns] | None:
    """Read columns of the examples that a dense and a sparse trial have both scored.

    Args:
        trial_set: The trials.
        dense: The dense trial.
        sparse: The sparse trial.
        names: Names of the columns in addition to the score.

    Returns:
        The columns of the dense and of the sparse trial, float64 of shape [examples] each, in the same order. None if
        a column is missing, as in trials of earlier versions.
    """
    dense_blocks = dense.records_by_block()
    sparse_blocks = sparse.records_by_block()
    common = [block for block in dense_blocks if block in sparse_blocks]
    tables = []
    for blocks in (dense_blocks, sparse_blocks):
        table = _read_columns(trial_set, [blocks[block] for block in common], (SCORE, *names))
        if table is None:
            return None
        tables.append(table)
    return tables[0], tables[1]


def _read_columns(trial_set: TrialSet, records: Sequence[TrialRecord], names: Sequence[str]) -> Columns | None:
    parts = []
    for record in records:
        table = trial_set.find_sample_table(record)
        if table is None or not set(names) <= set(table.columns):
            return None
        parts.append(table)
    if not parts:
        return None
    joined = pd.concat(parts)
    return {name: joined[name].to_numpy(dtype=np.float64) for name in names}
