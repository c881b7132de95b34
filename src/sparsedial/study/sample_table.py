"""The table of a trial's examples, as stored in ``samples/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sparsedial.study.records import TrialRecord
from sparsedial.tasks.base import LIKELIHOOD_COLUMNS
from sparsedial.tasks.example_blocks import find_block

LIKELIHOOD_TOLERANCE = 1e-3
"""Relative difference up to which two likelihoods of one example are equal."""


@dataclass(frozen=True)
class SampleLabels:
    """IDs and predictions of the examples of a trial, see `sparsedial.tasks.base.Scores`.

    Attributes:
        ids: ID of each example. Empty if they have none.
        predictions: What the model predicted for each example. Empty if it was not recorded.
        columns: Further numbers of each example by name, float64 of shape [examples].
    """

    ids: tuple[str, ...] = ()
    predictions: tuple[str, ...] = ()
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)


NO_LABELS = SampleLabels()
"""Labels of examples without IDs and predictions."""


def make_sample_table(record: TrialRecord, scores: np.ndarray, labels: SampleLabels = NO_LABELS) -> pd.DataFrame:
    """Return a table with one row per example.

    Args:
        record: The trial.
        scores: Per-example scores, float64, shape [examples].
        labels: IDs and predictions of the examples. Defaults to none.

    Returns:
        A table with the columns ``example`` (index in the task), ``id`` and ``prediction`` (if they are known),
        ``score``, and the further numbers.
    """
    block = find_block(record.identity.task)
    first = 0 if block is None else block.first
    columns: dict[str, object] = {"example": np.arange(first, first + len(scores))}
    if labels.ids:
        columns["id"] = list(labels.ids)
    if labels.predictions:
        columns["prediction"] = list(labels.predictions)
    columns["score"] = np.asarray(scores, dtype=np.float64)
    for name, values in labels.columns.items():
        columns[name] = np.asarray(values, dtype=np.float64)
    return pd.DataFrame(columns)


def has_equal_examples(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Return True if two runs of a trial gave the same examples.

    Likelihoods may differ by rounding, because their last bits depend on the machine. They may also be missing.

    Args:
        first: Table from `make_sample_table`.
        second: Another one.
    """
    columns = list(LIKELIHOOD_COLUMNS)
    if not first.drop(columns=columns, errors="ignore").equals(second.drop(columns=columns, errors="ignore")):
        return False
    common = [column for column in columns if column in first and column in second]
    return all(np.allclose(first[column], second[column], rtol=LIKELIHOOD_TOLERANCE) for column in common)
