"""Messages of errors that are found when the counts are read."""

from __future__ import annotations

from collections.abc import Set

import pandas as pd

MAX_LISTED_EXPERTS = 3  # experts that an error message names


def describe_lost_experts(experts: Set[str]) -> str:
    """Return the message of an error about experts whose padding is unknown.

    Args:
        experts: Names of the experts, at least one.
    """
    names = ", ".join(sorted(experts)[:MAX_LISTED_EXPERTS])
    return (
        f"The tokens that {len(experts)} expert(s) read could not be tracked, so padding would have been counted: "
        f"{names}. Run without padding (one row at a time), or leave out the layer with layers=."
    )


def describe_nonfinite(rows: pd.DataFrame) -> str:
    """Return the message of an error about vectors with a NaN or Inf.

    Args:
        rows: Rows of the table of counts that have such vectors.
    """
    vectors = ", ".join(f"{row.module} ({row.vector}: {row.nonfinite} vectors)" for row in rows.itertuples())
    return (
        f"NaN or Inf among the activations of layer(s) {sorted(set(rows['layer']))}: {vectors}. The vectors were not "
        "changed, and the scores of this run are invalid. Check the weights, or use a wider dtype."
    )
