"""One trial: the evaluation of a model on a task, dense or with a rule at a site."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sparsedial.acceleration.kernel_execution import run_on_kernels
from sparsedial.errors import NonFiniteError, NonFiniteOutputError, TaskError
from sparsedial.ffn.feed_forward import FFN, FFNs, VectorOwner
from sparsedial.ffn.site_shares import weight_share
from sparsedial.ffn.sites import registered_site_version, skippable_mac_share
from sparsedial.hooks.ffn_selection import select_owners
from sparsedial.hooks.forward_context import PHASES
from sparsedial.hooks.sparsifier import Sparsifier, sparsify
from sparsedial.hooks.step_mask_reuse import MaskReuse
from sparsedial.hooks.step_overlap import KeptSetOverlap
from sparsedial.inference.batch_size import FittingBatch
from sparsedial.inference.run_context import Progress, ignore_progress
from sparsedial.models.kind import CAUSAL
from sparsedial.models.loading import LanguageModel
from sparsedial.rules import Calibration, Rule
from sparsedial.study.canonical_json import json_digest
from sparsedial.study.provenance import Provenance
from sparsedial.study.records import (
    ModelLabel,
    SparsityCount,
    StepOverlapCount,
    TaskLabel,
    TrialIdentity,
    TrialRecord,
    TrialResult,
    counts_from_table,
)
from sparsedial.tasks.base import Scores, Task, TaskGroup
from sparsedial.tasks.batch_option import BatchedTask
from sparsedial.tasks.example_blocks import find_block


@dataclass(frozen=True)
class _Evaluation:
    """Scores of a task, and the counts of the sparsifier during the evaluation.

    Attributes:
        scores: One score per example.
        counts: Dropped and total entries. Empty for the dense run.
        step_overlap: Overlap of kept sets by denoising step. Empty if the model has no denoising steps.
        usage: Statistics of the reuse of kept sets, by name.
    """

    scores: Scores
    counts: tuple[SparsityCount, ...] = ()
    step_overlap: tuple[StepOverlapCount, ...] = ()
    usage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One evaluation of a model.

    Attributes:
        task: Task that scores the model.
        site: Where the rule is applied. None for the dense run.
        rule: Which entries are kept. None for the dense run.
        layers: Indices of the sparsified layers. Defaults to None, which means all layers.
        calibration: Calibration of the rule. Defaults to None, for rules that need none.
        phases: Phases in which the rule is applied. Defaults to None, which means all of them.
        accelerated: Whether a sparse run uses kernels that skip the weights of dropped entries. Defaults to False.
    """

    task: Task
    site: str | None = None
    rule: Rule | None = None
    layers: tuple[int, ...] | None = None
    calibration: Calibration | None = None
    phases: tuple[str, ...] | None = None
    accelerated: bool = False

    def identity(self, lm: LanguageModel, ffns: FFNs) -> TrialIdentity:
        """Return everything that can change the result. Its digest is the trial's key.

        Args:
            lm: The model.
            ffns: The FFNs of the model.

        Returns:
            The identity.
        """
        if self.site is None or self.rule is None:
            return TrialIdentity(lm.identity(), self.task.identity())
        return TrialIdentity(
            model=lm.identity(),
            task=self.task.identity(),
            site=self.site,
            rule=self.rule,
            layers=self.layers,
            ffns=ffns_digest(ffns, self.layers),
            site_version=registered_site_version(self.site),
            calibration=None if self.calibration is None else self.calibration.digest,
            phases=self.phases,
            accelerated=self.accelerated or None,
        )

    def run(
        self,
        lm: LanguageModel,
        ffns: FFNs,
        examples: dict[str, Any],
        provenance: Provenance,
        progress: Progress = ignore_progress,
        batch: FittingBatch | None = None,
    ) -> tuple[TrialRecord, Scores]:
        """Evaluate the task.

        Args:
            lm: The model.
            ffns: The FFNs of the model.
            examples: Examples of the task, as returned by `Task.prepare`.
            provenance: Software versions and hardware of this process.
            progress: Called while the task runs.
            batch: Number of rows per forward pass, which is reduced if memory runs out. Defaults to None, which means
                the number that the task chooses.

        Returns:
            The record of the trial, and the scores and predictions of the examples.

        Raises:
            TaskError: There are no scores, more or fewer than examples, or some are not finite.
            NonFiniteError: The logits or the sparsified vectors contain NaN or Inf.
        """
        start = time.time()
        evaluation = self._evaluate_in_memory(lm, ffns, examples, progress, batch)
        scores = evaluation.scores
        _check_scores(self.task, scores)
        counts = evaluation.counts
        record = TrialRecord(
            identity=self.identity(lm, ffns),
            model=ModelLabel(
                name=lm.source.name,
                origin=lm.source.origin,
                parameters=lm.parameters,
                active_parameters=active_parameters(lm.parameters, ffns),
                device=lm.device.type,
            ),
            task=TaskLabel(self.task.name, _averaging_group(self.task)),
            result=TrialResult(
                metric=scores.metric,
                score=scores.mean,
                examples=len(scores.values),
                dropped=sum(count.dropped for count in counts),
                total=sum(count.total for count in counts),
                details={**scores.details, **evaluation.usage},
                higher_is_better=scores.higher_is_better,
                chance=scores.chance,
                batch=None if batch is None else batch.rows,
            ),
            counts=counts,
            skippable_macs=self._skippable_macs(ffns, counts),
            weight_share=self._weight_share(ffns),
            seconds=round(time.time() - start, 3),
            provenance=provenance,
            step_overlap=evaluation.step_overlap,
        )
        return record, scores

    def _evaluate_in_memory(
        self, lm: LanguageModel, ffns: FFNs, examples: dict[str, Any], progress: Progress, batch: FittingBatch | None
    ) -> _Evaluation:
        """Evaluate the task with batches that fit into memory."""
        task = self.task
        if batch is None or not isinstance(task, BatchedTask):
            return self._evaluate(lm, ffns, examples, progress)

        def evaluate(rows: int) -> _Evaluation:
            trial = replace(self, task=task.with_batch(rows))
            return trial._evaluate(lm, ffns, examples, progress)

        return batch.run(evaluate)

    def _evaluate(self, lm: LanguageModel, ffns: FFNs, examples: dict[str, Any], progress: Progress) -> _Evaluation:
        if self.site is None or self.rule is None:
            return _Evaluation(self.task.score(lm, examples, None, progress))
        attached = sparsify(
            lm.model,
            self.site,
            self.rule,
            layers=self.layers,
            ffns=ffns,
            calibration=self.calibration,
            phases=self.phases or PHASES,
        )
        kernels: AbstractContextManager[object] = nullcontext()
        if self.accelerated:
            kernels = run_on_kernels(lm.model, _ffns_in_layers(ffns, self.layers))
        with kernels, attached as sparsifier:
            overlap = self._observe_steps(lm, sparsifier)
            try:
                scores = self.task.score(lm, examples, sparsifier, progress)
            except NonFiniteOutputError as error:
                raise _add_affected_layers(error, sparsifier) from None
        counts = counts_from_table(sparsifier.stats(), SparsityCount)
        if overlap is None:
            return _Evaluation(scores, counts)
        usage = overlap.usage()
        if not usage:
            return _Evaluation(scores, counts)
        return _Evaluation(scores, counts, counts_from_table(overlap.table(), StepOverlapCount), usage)

    def _observe_steps(self, lm: LanguageModel, sparsifier: Sparsifier) -> KeptSetOverlap | None:
        """Let a diffusion model reuse kept sets as the task requires, and compare kept sets between steps."""
        if lm.kind == CAUSAL:
            return None
        if self.task.reuse_mask > 1:
            MaskReuse(self.task.reuse_mask).attach(sparsifier)
        return KeptSetOverlap(sparsifier)

    def _skippable_macs(self, ffns: FFNs, counts: Sequence[SparsityCount]) -> dict[str, float]:
        if self.site is None:
            return {}
        return skippable_mac_shares(select_owners(ffns, self.site, self.layers), self.site, counts)

    def _weight_share(self, ffns: FFNs) -> float | None:
        """Return the share of the weights read per token that belongs to what is sparsified. None if it is unknown."""
        if self.site is None or ffns.weights_per_token is None:
            return None
        return weight_share(select_owners(ffns, self.site, self.layers), ffns.weights_per_token)


def _check_scores(task: Task, scores: Scores) -> None:
    task_name = task.name
    values = scores.values
    if not isinstance(scores.metric, str) or not scores.metric:
        raise TaskError(f"task {task_name}: the metric is {scores.metric!r}: expected a name. The trial is not stored.")
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "biuf":
        shape = f", shape {list(values.shape)}, dtype {values.dtype}" if isinstance(values, np.ndarray) else ""
        raise TaskError(
            f"task {task_name}: the scores are of type {type(values).__name__}{shape}: expected a NumPy array with one "
            "number per example. The trial is not stored."
        )
    block = find_block(task.identity())
    if block is not None:
        check_count(task_name, len(values), len(block), "one for each example of its block")
    if not len(values) or not np.isfinite(values).all():
        raise TaskError(
            f"task {task_name}: expected at least one score and only finite scores, got "
            f"{np.isfinite(values).sum()} finite scores of {len(values)}. The trial is not stored."
        )


def check_count(task_name: str, count: int, expected: int, reason: str) -> None:
    """Check the number of scores of a trial.

    Args:
        task_name: Name of the task.
        count: Number of scores that the task returned.
        expected: Number of scores that it has to return.
        reason: Why it has to return as many, for the error message.

    Raises:
        TaskError: The numbers differ.
    """
    if count != expected:
        raise TaskError(
            f"task {task_name}: its score() returned {count} scores: expected {expected}, {reason}. The trial is not "
            "stored."
        )


def _add_affected_layers(error: NonFiniteOutputError, sparsifier: Sparsifier) -> NonFiniteError:
    """Return the error, preceded by the layers whose sparsified vectors contain NaN or Inf if there are any."""
    try:
        sparsifier.stats()
    except NonFiniteError as affected_layers:
        return NonFiniteError(f"{affected_layers} {error}")
    return error


def ffns_digest(ffns: FFNs, layers: tuple[int, ...] | None) -> str:
    """Return a digest of the FFNs that are sparsified.

    Args:
        ffns: The FFNs of a model.
        layers: Indices of the sparsified layers, or None for all.

    Returns:
        A SHA-256 in hexadecimal.
    """
    return json_digest([[ffn.layer, ffn.expert, dict(ffn.names)] for ffn in _ffns_in_layers(ffns, layers)])


def active_parameters(parameters: int, ffns: Iterable[FFN]) -> int | None:
    """Return the number of parameters of a model that one token uses.

    Args:
        parameters: Number of parameters of the model.
        ffns: The FFNs of the model.

    Returns:
        The number of parameters without those of idle experts. None if the routing of experts is not observable.
    """
    idle = 0.0
    for ffn in ffns:
        if ffn.active_fraction is None:
            return None
        idle += (1 - ffn.active_fraction) * sum(ffn.macs)
    return parameters - round(idle)


def skippable_mac_shares(ffns: Sequence[VectorOwner], site: str, counts: Iterable[SparsityCount]) -> dict[str, float]:
    """Return the share of the FFNs' multiply-accumulates that can be skipped if all entries of a vector are dropped.

    This is `skippable_mac_share` averaged over FFNs, weighted by their multiply-accumulates. An expert counts in
    proportion to the tokens that are routed to it, because a runtime reads only active weights.

    Args:
        ffns: The sparsified FFNs, or the projections outside of the FFNs.
        site: Where the rule was applied.
        counts: Counts of a trial at this site.

    Returns:
        The share by name of the vector, for each vector of the site.
    """
    tokens = Counter[str]()
    for count in counts:
        tokens[count.module] += count.tokens
    most_tokens = max(tokens.values())
    shares = [skippable_mac_share(ffn, site) for ffn in ffns]
    costs = [sum(ffn.macs) * (tokens[ffn.name] / most_tokens) for ffn in ffns]
    total_cost = sum(costs)
    result = {}
    for vector in shares[0]:
        result[vector] = sum(cost * share[vector] for cost, share in zip(costs, shares, strict=True)) / total_cost
    return result


def _ffns_in_layers(ffns: FFNs, layers: tuple[int, ...] | None) -> list[FFN]:
    return [ffn for ffn in ffns if layers is None or ffn.layer in layers]


def _averaging_group(task: Task) -> TaskGroup | None:
    """Return the group whose average includes the task. None if there is no such group."""
    group: TaskGroup | None = getattr(task, "group", None)
    if group is None or group.by_size is None:
        return None
    return group
