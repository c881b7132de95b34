"""Search for problems in the directory of a study. Nothing is moved, run or repaired."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sparsedial.errors import SparsedialError, StorageError
from sparsedial.files import LOCK_NAME, is_temporary
from sparsedial.study.folder_layout import (
    RECORD_PATHS,
    REPORT_FOLDER,
    ROOT_FILES,
    SPEC_NAME,
    SYSTEM_NAMES,
    check_output_folder,
    files_below,
    record_files,
    temporary_files,
)
from sparsedial.study.job import Job, OutcomeKind
from sparsedial.study.planner import Planner
from sparsedial.study.records import SCHEMA_VERSION, TrialRecord
from sparsedial.study.spec import StudySpec
from sparsedial.study.spec_folder import MISSING_TASKS
from sparsedial.study.store import Store, decode_trial, is_consistent
from sparsedial.study.task_plan import task_plans_from_json
from sparsedial.study.verified_records import decode_record, read_file
from sparsedial.tasks.example_blocks import find_block

REPORT_SUFFIXES = {".html", ".csv", ".json", ".svg", ".png", ".log", ".txt", ".md", ".yaml", ".yml"}
"""Suffixes of files beside the records that are expected: the report, notes and logs."""


class ProblemKind(StrEnum):
    """Kinds of problems, in the order in which they are listed."""

    UNUSABLE = "unusable"
    CORRUPT = "corrupt"
    CONFLICTING = "conflicting"
    INVALID = "invalid"
    FAILED = "failed"
    MISSING = "missing"
    STRAY = "stray"
    UNKNOWN = "unknown"

    @property
    def advice(self) -> str:
        """Advice for the user, as one clause."""
        return _ADVICE[self]

    @property
    def is_harmless(self) -> bool:
        """True if the files have no effect on the results."""
        return self in (ProblemKind.STRAY, ProblemKind.UNKNOWN)


_ADVICE = {
    ProblemKind.UNUSABLE: "a file that the study needs cannot be used; its line says what to do",
    ProblemKind.CORRUPT: (
        "run the study again: damaged files are moved to quarantine/, and what the study still needs is computed again"
    ),
    ProblemKind.CONFLICTING: (
        "two runs gave different numbers, and the first one counts. Compare them, then delete the file in conflicts/"
    ),
    ProblemKind.INVALID: (
        "the numbers cannot be used: change the model, the task, its limit or the dtype, or leave the trial out"
    ),
    ProblemKind.FAILED: "run the study with --retry-failed, or leave the trial out",
    ProblemKind.MISSING: "run the study again: it resumes where it stopped",
    ProblemKind.STRAY: (
        "left by a run that was killed or by a repaired trial: nothing reads these files, and they can be deleted"
    ),
    ProblemKind.UNKNOWN: "not written by this version of sparsedial, which neither reads nor changes these files",
}


@dataclass(frozen=True)
class Problem:
    """Problem of a study.

    Attributes:
        kind: Kind of the problem.
        key: Key of the trial, or name of the file.
        text: One line that names the trial or file and describes the problem.
    """

    kind: ProblemKind
    key: str
    text: str


def find_problems(store: Store) -> list[Problem]:
    """Return everything in a study that is missing, failed, corrupt, conflicting, invalid or stray.

    Trials that the current ``study.json`` no longer requests are not reported as missing or failed.

    Args:
        store: The study. Nothing in it is changed.

    Returns:
        The problems, sorted by kind.
    """
    reader = Store(store.folder, repair=False)
    problems: list[Problem] = []
    checks = (_check_trials, _check_other_records, _find_strays, _find_unknown)
    for check in (_check_spec_and_plan, _find_missing_tasks, *checks):
        try:
            problems += check(reader)
        except StorageError as error:
            problems.append(Problem(ProblemKind.UNUSABLE, store.folder.name, str(error)))
        if check is _check_spec_and_plan and _has_version_mismatch(reader):
            break  # the records cannot be judged
    order = list(ProblemKind)
    return sorted(dict.fromkeys(problems), key=lambda problem: (order.index(problem.kind), problem.text))


def read_planner(store: Store) -> Planner:
    """Return the plan of a study from its directory alone. No model is loaded and no task is built.

    Args:
        store: The study.

    Returns:
        The planner, with the tasks and models that ``resolved.json`` lists.
    """
    spec = StudySpec.from_json(store.read_spec(), str(store.folder / SPEC_NAME))
    resolved = store.read_resolved() or {}
    return Planner(spec, task_plans_from_json(resolved), store, store.resolved_models(spec.models))


def check_study_readable(folder: Path) -> None:
    """Check that a directory can be used for a study: it is new, empty, or holds a study that this version can read.

    Args:
        folder: The directory. Nothing in it is changed.

    Raises:
        StorageError: The directory holds other files, or its ``study.json`` is damaged or of another schema version.
    """
    check_output_folder(folder)
    path = folder / SPEC_NAME
    if not path.exists():
        return
    try:
        StudySpec.from_json(Store(folder).read_spec(), str(path))
    except SparsedialError as error:
        raise StorageError(str(error)) from None


def describe_trial(record: TrialRecord) -> str:
    """Return a description of a finished trial, such as "tiny, arc_easy, input top_p 0.9".

    Args:
        record: The trial.

    Returns:
        Model, task, site and rule.
    """
    identity = record.identity
    return str(Job(record.model.name, record.task.name, identity.site, identity.rule, find_block(identity.task)))


def _find_missing_tasks(store: Store) -> Iterator[Problem]:
    """Yield one problem for each task that the last run left out, because its data could not be loaded."""
    resolved = store.read_resolved() or {}
    for name, message in resolved.get(MISSING_TASKS, {}).items():
        yield Problem(ProblemKind.MISSING, name, f"task {name!r} was left out: {message}")


def _check_trials(store: Store) -> Iterator[Problem]:
    for path in record_files(store.folder, "trials"):
        try:
            problem = _check_trial(store, path)
        except StorageError as error:
            problem = Problem(ProblemKind.UNUSABLE, path.stem, str(error))
        if problem is not None:
            yield problem


def _check_trial(store: Store, path: Path) -> Problem | None:
    """Return the problem of one finished trial and its scores. None if there is no problem."""
    key = path.stem
    name = _relative_name(store, path)
    data = read_file(path) or b""
    record = decode_trial(data, key)
    if record is None:
        return Problem(ProblemKind.CORRUPT, key, f"{name}: {_describe_damage(data)}")
    trial = describe_trial(record)
    scores = store.find_samples(record)
    if scores is None:
        return Problem(ProblemKind.CORRUPT, key, f"{trial}: {name}: its scores in samples/ are lost or damaged")
    if not is_consistent(record, scores):
        text = f"{trial}: {name}: its number of examples, sparsity or scores are inconsistent or not finite"
        return Problem(ProblemKind.CORRUPT, key, text)
    return None


def _describe_damage(data: bytes) -> str:
    """Return why the record in a file cannot be used, as one clause."""
    try:
        schema = json.loads(data)["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "damaged"
    if schema != SCHEMA_VERSION:
        return f"written with schema version {schema}, but this version of sparsedial reads version {SCHEMA_VERSION}"
    return "damaged, or written for another trial"


def _check_other_records(store: Store) -> Iterator[Problem]:
    for path in record_files(store.folder, "prepared"):
        name = _relative_name(store, path)
        try:
            data = read_file(path) or b""
        except StorageError as error:
            yield Problem(ProblemKind.UNUSABLE, path.stem, str(error))
            continue
        if decode_record(data, path.stem) is None:
            text = f"{name}: {_describe_damage(data)}: the examples of a task"
            yield Problem(ProblemKind.CORRUPT, path.stem, text)
    for path in record_files(store.folder, "conflicts"):
        key = path.name.partition(".")[0]
        first = store.trial(key)
        trial = key[:12] if first is None else describe_trial(first)
        text = f"{trial}: finished twice with different numbers: {_relative_name(store, path)}"
        yield Problem(ProblemKind.CONFLICTING, key, text)


def _find_strays(store: Store) -> Iterator[Problem]:
    for path in temporary_files(store.folder):
        yield Problem(ProblemKind.STRAY, path.name, f"{_relative_name(store, path)}: a temporary file")
    for path in record_files(store.folder, "samples"):
        key, _, digest = path.name.removesuffix(".parquet").partition(".")
        record = store.trial(key)
        if record is None or not record.samples_sha256.startswith(digest):
            text = f"{_relative_name(store, path)}: scores that no finished trial refers to"
            yield Problem(ProblemKind.STRAY, key, text)


def _find_unknown(store: Store) -> Iterator[Problem]:
    """Yield the files and directories that a study does not write."""
    for path in sorted(store.folder.iterdir()):
        if path.is_dir():
            belongs = path.name in (*RECORD_PATHS, REPORT_FOLDER)
        else:
            belongs = path.name in (*ROOT_FILES, LOCK_NAME) or path.suffix in REPORT_SUFFIXES or is_temporary(path)
        if not belongs and path.name not in SYSTEM_NAMES:
            yield Problem(ProblemKind.UNKNOWN, path.name, _relative_name(store, path))
    for name in RECORD_PATHS:
        known = set(record_files(store.folder, name))
        for path in files_below(store.folder / name):
            if path not in known and path.name not in (LOCK_NAME, *SYSTEM_NAMES) and not is_temporary(path):
                yield Problem(ProblemKind.UNKNOWN, path.name, _relative_name(store, path))


def _check_spec_and_plan(store: Store) -> Iterator[Problem]:
    try:
        planner = read_planner(store)
    except SparsedialError as error:
        yield Problem(ProblemKind.UNUSABLE, SPEC_NAME, str(error))
    else:
        yield from _check_plan(planner)


def _has_version_mismatch(store: Store) -> bool:
    """Return True if the study was written with another schema version."""
    try:
        return store.read_spec().get("version", SCHEMA_VERSION) != SCHEMA_VERSION
    except StorageError:
        return False


def _check_plan(planner: Planner) -> Iterator[Problem]:
    """Yield the planned jobs that failed or are not finished, and dense trials without a usable score."""
    for model in planner.models:
        yield from _check_attempts(planner, Job(model))
    for job in planner.known_jobs():
        if planner.finished_trial(job) is None:
            yield from _check_attempts(planner, job)
    for model in planner.resolved_models:
        for task in planner.tasks:
            yield from _check_dense_score(planner, model, task)
    set_aside = {path.name.partition(".")[0] for path in record_files(planner.store.folder, "quarantine")}
    for job in planner.jobs():
        key = planner.key(job)
        reason = "set aside in quarantine/ because it was damaged, and not run again since"
        yield Problem(ProblemKind.MISSING, key, f"{job}: {reason if key in set_aside else 'not finished'}")


def _check_attempts(planner: Planner, job: Job) -> Iterator[Problem]:
    """Yield the last failed attempt at a job that is not finished."""
    key = planner.key(job)
    attempts = planner.store.failures(key)
    if not attempts:
        return
    last = attempts[-1]
    kind = ProblemKind.INVALID if last.kind is OutcomeKind.INVALID else ProblemKind.FAILED
    yield Problem(kind, key, f"{job}: {last.kind} in {len(attempts)} attempt(s): {last.summary}")


def _check_dense_score(planner: Planner, model: str, task: str) -> Iterator[Problem]:
    """Yield a problem if no sparse score can be compared with the dense score of a task."""
    record = planner.dense_trial(model, task)
    problem = None if record is None else planner.score_problem(record)
    if record is not None and problem is not None:
        yield Problem(ProblemKind.INVALID, record.blocks[0].key, f"{Job(model, task)}: {problem}")


def _relative_name(store: Store, path: Path) -> str:
    return str(path.relative_to(store.folder))
