"""Sums of the counts of trials: of dropped entries, and of the overlap of kept sets."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sparsedial.study.records import SparsityCount, StepOverlapCount, TrialRecord

Key = tuple[Any, ...]


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
        return divide(self.dropped, self.total)

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


def sparsity_counts(trials: Iterable[TrialRecord]) -> Iterator[SparsityCount]:
    """Iterate over the sparsity counts of several trials.

    Args:
        trials: The trials.

    Yields:
        SparsityCount: The counts, trial by trial.
    """
    for record in trials:
        yield from record.counts


def overlap_counts(trials: Iterable[TrialRecord]) -> Iterator[StepOverlapCount]:
    """Iterate over the overlap counts of several trials.

    Args:
        trials: The trials.

    Yields:
        StepOverlapCount: The counts, trial by trial.
    """
    for record in trials:
        yield from record.step_overlap


def sum_counts(counts: Iterable[SparsityCount], by: Sequence[str]) -> dict[Key, CountSum]:
    """Sum the counts that have equal values in some fields.

    Args:
        counts: The counts.
        by: Names of at least two fields.

    Returns:
        The sum for each combination of their values.
    """
    get_key = attrgetter(*by)
    sums: dict[Key, CountSum] = defaultdict(CountSum)
    for count in counts:
        sums[get_key(count)].add(count)
    return dict(sums)


def divide(part: float, whole: float) -> float:
    """Return a share, or NaN if the whole is 0.

    Args:
        part: The numerator.
        whole: The denominator.
    """
    if not whole:
        return math.nan
    return part / whole
