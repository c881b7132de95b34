"""The distinct finished trials of one or several studies, and the problems of the studies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from sparsedial.errors import SpecError, StorageError
from sparsedial.ffn.feed_forward import SITES
from sparsedial.ffn.sites import registered_site_version
from sparsedial.rules import RULES
from sparsedial.study.integrity import find_problems
from sparsedial.study.pooled_trials import PooledTrial, pool_trials, select_disjoint_blocks
from sparsedial.study.records import TrialRecord
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.tasks.chat_template import resolve_identity
from sparsedial.tasks.example_blocks import ExampleBlock, find_block

MAX_PROBLEMS_PER_KIND = 10
SEARCH = "search"
GRID = "grid"
EARLIER = "earlier"


@dataclass(frozen=True)
class StudySource:
    """The study that a trial was read from.

    Attributes:
        store: The directory of the study.
        spec: Specification of the study.
    """

    store: Store
    spec: StudySpec


@dataclass
class TrialSet:
    """The finished trials of several studies.

    Attributes:
        block_trials: The distinct finished trials that match the specification of their study. Each has scored one
            block of examples.
        specs: Specification of each study.
        problems: Problems of the studies, one sentence each.
        excluded: Number of finished trials that are not used, because they do not match the current specification.
    """

    block_trials: list[TrialRecord] = field(default_factory=list)
    specs: list[StudySpec] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    excluded: int = 0
    _trial_by_key: dict[str, TrialRecord] = field(default_factory=dict, repr=False)
    _source_by_key: dict[str, StudySource] = field(default_factory=dict, repr=False)

    @cached_property
    def trials(self) -> list[PooledTrial]:
        """The trials of each model, site, rule and task, pooled over the blocks of examples.

        No study can be added afterwards.
        """
        groups: dict[str, list[TrialRecord]] = defaultdict(list)
        blocks_by_setting: dict[str, set[ExampleBlock]] = defaultdict(set)
        for record in self.block_trials:
            identity = record.identity
            groups[replace(identity, task=identity.task_settings).key].append(record)
            block = find_block(identity.task)
            if identity.is_dense and block is not None:
                blocks_by_setting[identity.setting].add(block)
        selected = {setting: select_disjoint_blocks(blocks) for setting, blocks in blocks_by_setting.items()}
        return [_pool_group(group, selected.get(group[0].identity.setting, set())) for group in groups.values()]

    def samples(self, record: TrialRecord) -> np.ndarray:
        """Return the per-example scores of a trial, float64 ``[examples]``.

        Args:
            record: One of `block_trials`.

        Returns:
            The scores, in the order of the task's examples.

        Raises:
            StorageError: The scores are missing or damaged.
        """
        return self._source_by_key[record.key].store.samples(record)

    def find_sample_table(self, record: TrialRecord) -> pd.DataFrame | None:
        """Return what happened to each example of a trial, or None if the file is missing or damaged.

        Args:
            record: One of `block_trials`.

        Returns:
            One row per example, with the columns of `sparsedial.study.sample_table.make_sample_table`.
        """
        return self._source_by_key[record.key].store.find_sample_table(record)

    def find_store(self, record: TrialRecord) -> Store:
        """Return the directory of the study that a trial was read from.

        Args:
            record: One of `block_trials`.
        """
        return self._source_by_key[record.key].store

    def explain_choice(self, record: PooledTrial) -> str:
        """Return why a value of p was measured.

        Args:
            record: One of `trials`, not a dense one.

        Returns:
            "search" if the adaptive search chose it, "grid" if the study lists it, "earlier" if only an earlier
            version of the study lists it.
        """
        grid = self._source_by_key[record.blocks[0].key].spec.values
        if grid is None:
            return SEARCH
        if record.p in grid:
            return GRID
        return EARLIER

    def requested_precision(self, records: Sequence[PooledTrial]) -> float | None:
        """Return the half width of the 95% interval that the studies of some trials request.

        Args:
            records: Some of `trials`.

        Returns:
            The smallest half width, as a fraction of sparsity. None if no study requests one.
        """
        requested = []
        for record in records:
            precision = self._source_by_key[record.blocks[0].key].spec.precision
            if precision is not None:
                requested.append(precision / 100)
        return min(requested, default=None)

    def add_study(self, store: Store, prefix: str = "") -> None:
        """Add the finished trials of one study.

        Args:
            store: The directory of the study.
            prefix: Text put before each problem of this study, "" by default.

        Raises:
            StorageError: The directory cannot be read.
            SpecError: The study was written with another schema.
        """
        source = StudySource(store, StudySpec.from_json(store.read_spec()))
        self.specs.append(source.spec)
        finished = list(store.trials())
        requested = _requested_trials(finished, source)
        self.excluded += len(finished) - len(requested)
        for problem in _describe_problems(store):
            self.problems.append(f"{prefix}{problem}")
        if not requested:
            self.problems.append(f"{str(store.folder)!r}: no finished trial matches its study.json. Run it first.")
        for record in requested:
            self._add_trial(record, source)

    def _add_trial(self, record: TrialRecord, source: StudySource) -> None:
        first = self._trial_by_key.setdefault(record.key, record)
        if first is record:
            self.block_trials.append(record)
            self._source_by_key[record.key] = source
        elif self._has_other_numbers(first, record, source):
            shown = self._source_by_key[record.key].store.folder
            self.problems.append(
                f"{str(source.store.folder)!r}: trial {record.key[:12]} has other numbers than in {str(shown)!r}; "
                f"the report uses those in {str(shown)!r}"
            )

    def _has_other_numbers(self, first: TrialRecord, record: TrialRecord, source: StudySource) -> bool:
        """Return True if two records of one trial differ in a number that both of them have."""
        names = first.result.details.keys() & record.result.details.keys()
        results = []
        for trial in (first, record):
            results.append(replace(trial.result, details={name: trial.result.details[name] for name in names}))
        if results[0] != results[1]:
            return True
        if first.samples_sha256 == record.samples_sha256:
            return False
        scores = self._source_by_key[first.key].store.find_samples(first)  # a newer version may store further columns
        other_scores = source.store.find_samples(record)
        return scores is None or other_scores is None or not np.array_equal(scores, other_scores)


def read_studies(stores: Sequence[Store]) -> TrialSet:
    """Read the finished trials of studies. A trial that is part of several studies is used once.

    Args:
        stores: The directories of the studies. A directory that is given twice is read once.

    Returns:
        The trials and the problems of the studies.

    Raises:
        StorageError: A directory cannot be read, or no study has a finished trial.
        SpecError: A study was written with another schema.
    """
    distinct = list({store.folder.resolve(): store for store in stores}.values())
    trial_set = TrialSet()
    for store in distinct:
        trial_set.add_study(store, prefix=f"{store.folder}: " if len(distinct) > 1 else "")
    if not trial_set.block_trials:
        raise StorageError("; ".join(trial_set.problems) or "no study to report on: expected at least one directory")
    return trial_set


def _pool_group(records: Sequence[TrialRecord], selected: Container[ExampleBlock]) -> PooledTrial:
    """Pool trials that differ only in their blocks of examples.

    Args:
        records: The trials.
        selected: Blocks of the dense trials that do not overlap. They are used if one of the trials has them.
    """
    by_block = {find_block(record.identity.task): record for record in records}
    usable = [block for block in by_block if block is not None and block in selected]
    if not usable:  # the dense trial is missing, or the task is not divided
        usable = list(select_disjoint_blocks(block for block in by_block if block is not None))
    return pool_trials([by_block[block] for block in usable] or records)


def required_retention(specs: Sequence[StudySpec]) -> float:
    """Return the share of the dense score that all of these studies require.

    Args:
        specs: Specification of each study.

    Returns:
        A fraction in (0, 1).

    Raises:
        SpecError: The studies require different shares.
    """
    required = sorted({spec.retain for spec in specs})
    if len(required) > 1:
        raise SpecError(
            f"the studies require different shares of the dense score ({required}): choose one with --retain"
        )
    return required[0]


def describe_device(record: TrialRecord) -> str:
    """Return the name of the device that a trial ran on.

    Args:
        record: A trial.
    """
    gpus = sorted(set(record.provenance.gpus))
    if record.model.device == "cuda" and gpus:
        return ", ".join(gpus)
    return record.model.device


def _describe_problems(store: Store) -> list[str]:
    """List the problems of a study except unused files: at most `MAX_PROBLEMS_PER_KIND` of each kind."""
    problems = [problem for problem in find_problems(store) if not problem.kind.is_harmless]
    lines = []
    for kind, group in groupby(problems, key=lambda problem: problem.kind):
        texts = [f"{kind}: {problem.text}" for problem in group]
        lines += texts[:MAX_PROBLEMS_PER_KIND]
        hidden = len(texts) - MAX_PROBLEMS_PER_KIND
        if hidden > 0:
            lines.append(f"{kind}: {hidden} more; `sparsedial fsck` lists all of them")
    return lines


def _requested_trials(finished: Sequence[TrialRecord], source: StudySource) -> list[TrialRecord]:
    """Return the trials that match the specification of the study. Without a ``resolved.json``, return all trials."""
    resolved = source.store.read_resolved()
    if resolved is None:
        return list(finished)
    return [record for record in finished if _is_requested(record, source.spec, resolved)]


def _is_requested(record: TrialRecord, spec: StudySpec, resolved: dict[str, Any]) -> bool:
    """Return True if a trial matches the specification and the models and tasks that it resolved to."""
    identity = record.identity
    model = identity.model.to_json()
    if model not in resolved["models"] or identity.task not in _list_tasks(resolved, model):
        return False
    if identity.site is None or identity.rule is None:
        return True
    for entry in resolved.get("resolved_models", ()):
        if entry["identity"] != model:
            continue
        is_calibrated_otherwise = identity.calibration not in (None, *entry.get("calibrations", {}).values())
        if entry["ffns"] != identity.ffns or is_calibrated_otherwise:
            return False
    if identity.rule.family not in spec.rules or identity.site not in (spec.sites or SITES):
        return False
    # Trials of other versions of a registered rule or site belong to an earlier state of the study.
    is_current_rule = identity.rule.version == RULES[identity.rule.name].version
    is_current_site = identity.site_version == registered_site_version(identity.site)
    is_same_part = identity.layers == spec.layers and identity.phases == spec.phases
    is_same_execution = bool(identity.accelerated) == spec.accelerated
    return is_same_part and is_same_execution and is_current_rule and is_current_site


def _list_tasks(resolved: dict[str, Any], model: dict[str, Any]) -> list[Mapping[str, Any]]:
    """Return the identities of the tasks of a study for one of its models."""
    has_template = False
    for entry in resolved.get("resolved_models", ()):
        if entry["identity"] == model:
            has_template = entry.get("has_chat_template", False)
    return [resolve_identity(task, has_template) for task in resolved["tasks"]]
