"""The experts of mixture-of-experts layers that a report lists, labels and draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sparsedial.analysis.estimates import is_true
from sparsedial.analysis.row_order import sort_rows
from sparsedial.analysis.row_selection import rows_with_numbers

MAX_LISTED_OUTLIERS = 20
"""Outliers that the table lists. ``experts.csv`` has all of them."""

MAX_LABELLED_OUTLIERS = 6
"""Outliers per panel that get a label in the chart."""

SHARE_STEPS_PER_DECADE = 40
"""Resolution of the chart: the share of routed tokens is rounded to this many steps per factor of ten."""

SPARSITY_STEPS = 200
"""Resolution of the chart: the sparsity is rounded to this many steps between 0 and 1."""

PANEL_COLUMNS = ["model", "rule", "layers", "task", "phase", "site", "vector"]


@dataclass(frozen=True)
class ListedOutliers:
    """The experts whose sparsity differs most from that of the other experts of their layer.

    Attributes:
        rows: The listed outliers, in the order of the report.
        outlier_count: Number of all outliers, counted like ``expert_count``.
        expert_count: Number of experts. An expert is counted once per curve, vector and phase.
    """

    rows: pd.DataFrame
    outlier_count: int
    expert_count: int


def select_listed_outliers(experts: pd.DataFrame) -> ListedOutliers:
    """Select the outliers to list: the `MAX_LISTED_OUTLIERS` furthest from the median of their layer.

    Args:
        experts: Table ``Results.experts``.

    Returns:
        The selected rows and the counts.
    """
    outliers = experts[experts["outlier"].map(is_true)]
    by_distance = outliers["robust_z"].abs().sort_values(ascending=False)
    listed = outliers.loc[by_distance.index].head(MAX_LISTED_OUTLIERS)
    return ListedOutliers(sort_rows(listed), len(outliers), len(experts))


def select_experts_to_draw(experts: pd.DataFrame) -> pd.DataFrame:
    """Select the points of the chart of sparsity over routing frequency.

    Experts that received no token are left out. Of the points that are equal at the resolution of the
    chart, only one is selected, because a model can have thousands of experts.

    Args:
        experts: Table ``Results.experts``.

    Returns:
        The selected rows in the order of the report, with a boolean column ``is_labelled``.
    """
    routed = sort_rows(rows_with_numbers(experts, "sparsity", "share"))
    if routed.empty:
        return routed
    routed = routed[routed["share"] != 0]
    routed = routed.assign(is_labelled=routed.index.isin(_labelled_outliers(routed)))
    appearance = routed[[*PANEL_COLUMNS, "outlier"]].assign(
        label=routed.index.where(routed["is_labelled"], -1),
        share=(SHARE_STEPS_PER_DECADE * np.log10(routed["share"].astype(float))).round(),
        sparsity=(SPARSITY_STEPS * routed["sparsity"].astype(float)).round(),
    )
    return routed[~appearance.duplicated(keep="last")]


def _labelled_outliers(routed: pd.DataFrame) -> pd.Index[int]:
    """Return the index of the outliers that get a label: in each panel, those furthest from their median."""
    outliers = routed[routed["outlier"].map(is_true)]
    distance = outliers["robust_z"].abs()
    by_distance = outliers.loc[distance.sort_values(ascending=False, kind="stable").index]
    return by_distance.groupby(PANEL_COLUMNS, sort=False, dropna=False).head(MAX_LABELLED_OUTLIERS).index
