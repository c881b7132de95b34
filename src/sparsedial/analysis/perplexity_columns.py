"""Columns of the perplexity criterion in the tables of critical sparsities and of points."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from sparsedial.analysis.retention_curves import LabelledCurve
from sparsedial.curves.critical import critical_sparsity
from sparsedial.curves.curve import Curve
from sparsedial.curves.paired_scores import pair_scores, retention_intervals
from sparsedial.curves.perplexity import compare_likelihoods
from sparsedial.errors import SpecError
from sparsedial.study.criterion import BOTH, CRITERIA, PERPLEXITY, RETAIN_BY_PERPLEXITY, SCORE
from sparsedial.study.spec import StudySpec
from sparsedial.suggestions import describe_unknown

CRITICAL_PERPLEXITY_COLUMNS = (
    "perplexity_sparsity",
    "perplexity_low",
    "perplexity_high",
    "perplexity_status",
    "perplexity_p",
    "perplexity_high_censored",
    "dense_perplexity",
)
"""Columns of the table of critical sparsities if it shows both criteria."""

POINT_PERPLEXITY_COLUMNS = ("perplexity", "dense_perplexity", "perplexity_ratio_low", "perplexity_ratio_high")
"""Columns of the table of points if it shows both criteria."""


def choose_criterion(specs: Sequence[StudySpec], requested: str | None = None) -> str:
    """Return the criterion of a report.

    Args:
        specs: The studies.
        requested: The criterion that the user asks for. Defaults to None, which means that of the studies. If they
            differ, it is "both".

    Returns:
        One of `CRITERIA`.

    Raises:
        SpecError: The requested criterion is unknown.
    """
    if requested is not None:
        if requested not in CRITERIA:
            raise SpecError(describe_unknown("criterion", requested, CRITERIA))
        return requested
    criteria = set(map(attrgetter("criterion"), specs))
    return criteria.pop() if len(criteria) == 1 else BOTH


def critical_perplexity_columns(curve: LabelledCurve) -> dict[str, Any]:
    """Return the columns `CRITICAL_PERPLEXITY_COLUMNS` of one curve, which are None without likelihoods.

    Args:
        curve: The curve.
    """
    if curve.likelihoods is None:
        return dict.fromkeys(CRITICAL_PERPLEXITY_COLUMNS)
    critical = critical_sparsity(compare_likelihoods(curve.likelihoods), RETAIN_BY_PERPLEXITY)
    dense = float(np.exp(curve.likelihoods.dense))
    if critical.low is None:  # fewer than two examples
        return {**dict.fromkeys(CRITICAL_PERPLEXITY_COLUMNS), "dense_perplexity": dense}
    values = (
        critical.estimate,
        critical.low,
        critical.high,
        critical.status,
        critical.p,
        critical.right_censored,
        dense,
    )
    return dict(zip(CRITICAL_PERPLEXITY_COLUMNS, values, strict=True))


def point_perplexity_columns(curve: LabelledCurve) -> list[dict[str, Any]]:
    """Return the columns `POINT_PERPLEXITY_COLUMNS` of each point of a curve, which are None without likelihoods.

    The ends of the interval are those of the sparse perplexity divided by the dense one, on the same examples.

    Args:
        curve: The curve.
    """
    likelihoods = curve.likelihoods
    if likelihoods is None:
        missing: dict[str, Any] = dict.fromkeys(POINT_PERPLEXITY_COLUMNS)
        return [missing] * len(curve.curve.p)
    low, high = _ratio_intervals(likelihoods)
    by_p = {}
    for index, p in enumerate(likelihoods.p.tolist()):
        perplexities = np.exp([likelihoods.score[index], likelihoods.reference[index]])
        values = (*map(float, perplexities), low[index], high[index])
        by_p[p] = dict(zip(POINT_PERPLEXITY_COLUMNS, values, strict=True))
    return [by_p[p] for p in curve.curve.p.tolist()]


def _ratio_intervals(likelihoods: Curve) -> tuple[list[float], list[float]]:
    """Return the ends of the 95% intervals of the ratio of the perplexities. NaN if they are not known."""
    scores = pair_scores(compare_likelihoods(likelihoods))
    if scores is None:
        missing = [float("nan")] * len(likelihoods.p)
        return missing, missing
    low, high = retention_intervals(scores)
    return np.exp(1 - high).tolist(), np.exp(1 - low).tolist()


def describe_criterion(criterion: str, curves: Sequence[LabelledCurve]) -> list[str]:
    """Return the notes that a reader of a report with perplexities needs.

    Args:
        criterion: The criterion of the report.
        curves: The curves of single tasks.

    Returns:
        One sentence per note. Empty for the criterion "score".
    """
    if criterion == SCORE:
        return []
    missing = sorted({curve.label.task for curve in curves if curve.likelihoods is None})
    notes = [
        "By perplexity, the critical sparsity is the highest sparsity with a perplexity at most 1% higher than that of "
        "the dense model, on the reference texts of the task."
    ]
    if criterion == PERPLEXITY:
        notes = [
            "The scores are perplexities, and their retention is 1 minus the increase of the mean negative "
            "log-likelihood. The critical sparsity is the highest sparsity with a perplexity at most 1% higher."
        ]
    if missing:
        notes.append(
            f"No perplexity is known for {', '.join(missing)}: the task has no reference text, the model predicts "
            "masked tokens, or the trials are of an earlier version. Such trials have to be run in a new directory."
        )
    return notes
