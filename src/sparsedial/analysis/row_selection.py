"""Selection of the rows of result tables that are shown first, and of those that can be drawn."""

from __future__ import annotations

import pandas as pd

from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.labels import is_average
from sparsedial.tasks.self_prediction import SelfPrediction


def headline_rows(frame: pd.DataFrame, subject: str = "model") -> pd.DataFrame:
    """Return the rows by which models, or families of models, should be compared.

    These are the task averages and self-prediction. A model without an average is represented by each of its tasks.
    Tasks that are part of a group, such as those of mmlu, are represented by the group.

    Args:
        frame: A table with a column ``task`` and the column ``subject``.
        subject: Name of the column whose values are compared: ``model`` or ``family``.

    Returns:
        The selected rows, in their order.
    """
    frame = drop_group_members(frame)
    if frame.empty:
        return frame
    is_average_row = frame["task"].map(is_average)
    averaged_subjects = set(frame[subject][is_average_row])
    has_no_average = ~frame[subject].isin(averaged_subjects)
    return frame[is_average_row | has_no_average | (frame["task"] == SelfPrediction.name)]


def drop_group_members(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of tasks that are not part of a group with an average of its own.

    Args:
        frame: A table. Its column ``group`` names the group of a task; without that column, all rows are returned.

    Returns:
        The selected rows, in their order.
    """
    if "group" not in frame:
        return frame
    return frame[frame["group"].isna()]


def rows_with_numbers(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows that have a finite number in each of some columns.

    Args:
        frame: A table.
        *columns: Names of the columns.

    Returns:
        The selected rows, in their order.
    """
    if frame.empty:
        return frame
    numbers = frame[list(columns)].map(finite_number)
    return frame[numbers.notna().all(axis=1)]


def rows_with_any_number(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the rows that have a finite number in at least one of some columns.

    Args:
        frame: A table.
        *columns: Names of the columns.

    Returns:
        The selected rows, in their order.
    """
    if frame.empty:
        return frame
    numbers = frame[list(columns)].map(finite_number)
    return frame[numbers.notna().any(axis=1)]


def rows_with_estimate_or_interval(critical: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have a critical sparsity, or both ends of its interval.

    Args:
        critical: Table ``Results.critical``.

    Returns:
        The selected rows, in their order.
    """
    estimated = rows_with_numbers(critical, "sparsity").index
    bounded = rows_with_numbers(critical, "low", "high").index
    return critical[critical.index.isin(estimated.union(bounded))]
