"""Pooling of the trials of one model, site, rule and task that scored different blocks of examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from sparsedial.study.records import SparsityCount, StepOverlapCount, TrialRecord, TrialResult
from sparsedial.tasks.base import GENERATION_COLUMNS, SEGMENT_COLUMNS
from sparsedial.tasks.example_blocks import ExampleBlock, find_block

MEANS_OVER_EXAMPLES = (*GENERATION_COLUMNS, *SEGMENT_COLUMNS)
"""Entries of `TrialResult.details` that are means over examples, and can be pooled. Others are left out."""


class SampleReader(Protocol):
    """Interface of sources of per-example scores, such as `Store`."""

    def samples(self, record: TrialRecord) -> np.ndarray:
        """Return the per-example scores of a trial.

        Args:
            record: The trial.

        Returns:
            Scores, float64, shape [examples].
        """

    def find_sample_table(self, record: TrialRecord) -> pd.DataFrame | None:
        """Return what happened to each example of a trial, or None if the file is missing or damaged.

        Args:
            record: The trial.

        Returns:
            One row per example, with the columns of `sparsedial.study.sample_table.make_sample_table`.
        """


@dataclass(frozen=True)
class PooledTrial(TrialRecord):
    """The sum of the trials of one model, site, rule and task that scored different blocks of examples.

    The identity has no range of examples, and the key is not that of a file.

    Attributes:
        blocks: The trials, in the order of their examples.
    """

    blocks: tuple[TrialRecord, ...] = ()

    def samples(self, source: SampleReader) -> np.ndarray:
        """Return the per-example scores in the order of the examples.

        Args:
            source: Source of the scores of single trials.

        Returns:
            Scores, float64, shape [examples].
        """
        return np.concatenate(list(self.block_samples(source).values()))

    def block_samples(self, source: SampleReader) -> dict[ExampleBlock, np.ndarray]:
        """Return the per-example scores of each block.

        Args:
            source: Source of the scores of single trials.

        Returns:
            Scores by block, float64, shape [examples]. A task that is not divided has one block from 0 on.
        """
        return {block: source.samples(trial) for block, trial in self.records_by_block().items()}

    def records_by_block(self) -> dict[ExampleBlock, TrialRecord]:
        """Return the trial of each block. A task that is not divided has one block from 0 on."""
        records = {}
        for trial in self.blocks:
            records[find_block(trial.identity.task) or ExampleBlock(0, trial.result.examples)] = trial
        return records


def pool_trials(records: Iterable[TrialRecord]) -> PooledTrial:
    """Pool the results and counts of trials that differ only in their blocks of examples.

    Args:
        records: At least one trial. Their blocks do not overlap.

    Returns:
        The sums of the counts and durations, and the means of the scores. The software versions are those of the first
        trial.
    """
    blocks = tuple(sorted(records, key=_first_example))
    first = blocks[0]
    values = {record_field.name: getattr(first, record_field.name) for record_field in fields(TrialRecord)}
    pooled = PooledTrial(**values, blocks=blocks)
    pooled = replace(pooled, identity=replace(first.identity, task=first.identity.task_settings))
    if len(blocks) == 1:
        return pooled
    totals = [float(record.result.total) for record in blocks]
    return replace(
        pooled,
        result=_pool_results([record.result for record in blocks]),
        counts=_pool_counts(blocks),
        skippable_macs=_average_mappings([record.skippable_macs for record in blocks], totals),
        seconds=sum(record.seconds for record in blocks),
        step_overlap=_pool_step_overlap(blocks),
    )


def select_disjoint_blocks(blocks: Iterable[ExampleBlock]) -> set[ExampleBlock]:
    """Return blocks that do not overlap: from the first example on, the longest ones.

    Args:
        blocks: Blocks that may overlap, because studies with different numbers of examples share a directory or a
            report.

    Example:
        >>> blocks = [ExampleBlock(0, 64), ExampleBlock(64, 96), ExampleBlock(64, 128)]
        >>> sorted(block.to_json() for block in select_disjoint_blocks(blocks))
        [[0, 64], [64, 128]]
    """
    selected: set[ExampleBlock] = set()
    end = 0
    for block in sorted(set(blocks), key=lambda block: (block.first, -block.end)):
        if block.first >= end:
            selected.add(block)
            end = block.end
    return selected


def _first_example(record: TrialRecord) -> int:
    block = find_block(record.identity.task)
    return 0 if block is None else block.first


def _pool_results(results: Sequence[TrialResult]) -> TrialResult:
    first = results[0]
    weights = [float(result.examples) for result in results]
    chances = [result.chance for result in results if result.chance is not None]
    batches = [result.batch for result in results if result.batch is not None]
    details = []
    for result in results:
        details.append({name: result.details[name] for name in MEANS_OVER_EXAMPLES if name in result.details})
    return replace(
        first,
        score=float(np.average([result.score for result in results], weights=weights)),
        examples=sum(result.examples for result in results),
        dropped=sum(result.dropped for result in results),
        total=sum(result.total for result in results),
        details=_average_mappings(details, weights),
        chance=float(np.average(chances, weights=weights)) if len(chances) == len(results) else None,
        batch=max(batches, default=None),
    )


def _average_mappings(mappings: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """Return the weighted mean of each entry that all mappings have."""
    averages = {}
    for name in mappings[0]:
        if all(name in mapping for mapping in mappings):
            averages[name] = float(np.average([mapping[name] for mapping in mappings], weights=weights))
    return averages


def _pool_counts(records: Sequence[TrialRecord]) -> tuple[SparsityCount, ...]:
    groups: dict[tuple[Any, ...], list[SparsityCount]] = defaultdict(list)
    routed = [_count_routed_tokens(record.counts) for record in records]
    routing_weights: dict[tuple[Any, ...], float] = defaultdict(float)
    for record, routed_tokens in zip(records, routed, strict=True):
        for count in record.counts:
            key = (count.layer, count.module, count.vector, count.expert, count.phase, count.step, count.segment)
            groups[key].append(count)
            routing_weights[key] += (count.weight or 0.0) * routed_tokens[_layer_key(count)]
    pooled = []
    for key, counts in groups.items():
        weight = None
        if counts[0].weight is not None:
            weight = routing_weights[key] / sum(tokens[_layer_key(counts[0])] for tokens in routed)
        pooled.append(_add_counts(counts, weight))
    return tuple(pooled)


def _layer_key(count: SparsityCount) -> tuple[Any, ...]:
    return count.layer, count.vector, count.phase, count.step, count.segment


def _count_routed_tokens(counts: Iterable[SparsityCount]) -> Counter[tuple[Any, ...]]:
    """Return the number of tokens in each layer, counted once for each of their experts."""
    tokens = Counter[tuple[Any, ...]]()
    for count in counts:
        tokens[_layer_key(count)] += count.tokens
    return tokens


def _add_counts(counts: Sequence[SparsityCount], weight: float | None) -> SparsityCount:
    return replace(
        counts[0],
        dropped=sum(count.dropped for count in counts),
        total=sum(count.total for count in counts),
        tokens=sum(count.tokens for count in counts),
        weight=weight,
    )


def _pool_step_overlap(records: Sequence[TrialRecord]) -> tuple[StepOverlapCount, ...]:
    groups: dict[tuple[Any, ...], list[StepOverlapCount]] = defaultdict(list)
    for record in records:
        for count in record.step_overlap:
            groups[count.layer, count.module, count.vector, count.step, count.state].append(count)
    return tuple(map(_add_step_overlap, groups.values()))


def _add_step_overlap(counts: Sequence[StepOverlapCount]) -> StepOverlapCount:
    return replace(
        counts[0],
        tokens=sum(count.tokens for count in counts),
        dropped=sum(count.dropped for count in counts),
        total=sum(count.total for count in counts),
        compared=sum(count.compared for count in counts),
        overlap_previous=_weighted_mean([_Weighted(count.overlap_previous, count.compared) for count in counts]),
        overlap_first=_weighted_mean([_Weighted(count.overlap_first, count.compared) for count in counts]),
    )


@dataclass(frozen=True)
class _Weighted:
    """A mean, and the number of observations behind it."""

    mean: float | None
    weight: int


def _weighted_mean(terms: Sequence[_Weighted]) -> float | None:
    """Return the mean of the known terms, or None if none is known or has a weight."""
    known = [(term.mean, term.weight) for term in terms if term.mean is not None]
    weight = sum(weight for _, weight in known)
    if not weight:
        return None
    return sum(mean * count for mean, count in known) / weight
