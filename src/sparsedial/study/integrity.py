"""Search for problems in the directory of a study. Nothing is moved, run or repaired."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sparsedial.errors import SparsedialError, StorageError
from sparsedial.files import is_temporary
from sparsedial.study.job import Job, OutcomeKind
from sparsedial.study.planner import Planner
from sparsedial.study.records import TrialRecord
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.study.verified_records import decode_record

STUDY_FILES = {"study.json", "resolved.json"}
STUDY_FOLDERS = {"trials", "samples", "prepared", "specs", "failed", "quarantine", "conflicts", "figures"}
REPORT_SUFFIXES = {".html", ".csv", ".json", ".svg", ".png", ".log", ".txt", ".md", ".yaml", ".yml"}


class ProblemKind(StrEnum):
    """Kinds of problems, in the order in which they are listed."""

    CORRUPT = "corrupt"
    CONFLICTING = "conflicting"
    INVALID = "invalid"
    FAILED = "failed"
    MISSING = "missing"
    STRAY = "stray"

    @property
    def advice(self) -> str:
        """Advice for the user, as one clause."""
        return _ADVICE[self]


_ADVICE = {
    ProblemKind.CORRUPT: (
        "run the study again: damaged files are moved to quarantine/, and only their trials are run again"
    ),
    ProblemKind.CONFLICTING: (
        "two runs gave different numbers, and the first one counts. Compare them, then delete the file in conflicts/"
    ),
    ProblemKind.INVALID: "the numbers cannot be used: change the task, its limit or the dtype, or leave it out",
    ProblemKind.FAILED: "run the study with --retry-failed, or leave the trial out",
    ProblemKind.MISSING: "run the study again: it resumes where it stopped",
    ProblemKind.STRAY: (
        "files left by a run that was killed, or not part of the study: they are harmless and can be deleted"
    ),
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
    problems = [*_check_trials(reader), *_check_other_records(reader), *_find_strays(reader)]
    try:
        planner = read_planner(reader)
    except SparsedialError as error:
        problems.append(Problem(ProblemKind.CORRUPT, "study.json", str(error)))
    else:
        problems += _check_plan(planner)
    order = list(ProblemKind)
    return sorted(problems, key=lambda problem: (order.index(problem.kind), problem.text))


def read_planner(store: Store) -> Planner:
    """Return the plan of a study from its directory alone. No model is loaded and no task is built.

    Args:
        store: The study.

    Returns:
        The planner, with the tasks and models that ``resolved.json`` lists.
    """
    spec = StudySpec.from_json(store.read_spec(), str(store.folder / "study.json"))
    resolved = store.read_resolved() or {}
    tasks = {str(task.get("task")): task for task in resolved.get("tasks", [])}
    return Planner(spec, tasks, store, store.resolved_models(spec.models))


def check_study_readable(folder: Path) -> None:
    """Check that a directory can be used for a study: it holds no study, or one that this version can read.

    Args:
        folder: The directory. Nothing in it is changed.

    Raises:
        StorageError: The ``study.json`` is damaged, or of another schema version.
    """
    path = folder / "study.json"
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
    return str(Job(record.model.name, record.task.name, record.identity.site, record.identity.rule))


def _check_trials(store: Store) -> Iterator[Problem]:
    for path in sorted((store.folder / "trials").glob("*/*.json")):
        if is_temporary(path):
            continue
        problem = _check_trial(store, path)
        if problem is not None:
            yield problem


def _check_trial(store: Store, path: Path) -> Problem | None:
    """Return the problem of one finished trial and its scores. None if there is no problem."""
    key = path.stem
    name = _relative_name(store, path)
    try:
        data = decode_record(path.read_bytes(), key)
    except OSError as error:
        return Problem(ProblemKind.CORRUPT, key, f"{name}: {error.strerror}")
    if data is None:
        return Problem(ProblemKind.CORRUPT, key, f"{name}: damaged")
    record = TrialRecord.from_json(data)
    trial = describe_trial(record)
    if record.key != key:
        return Problem(ProblemKind.INVALID, key, f"{trial}: {name} was written for another trial")
    try:
        scores = store.samples(record)
    except SparsedialError as error:
        return Problem(ProblemKind.CORRUPT, key, f"{trial}: {error}")
    is_consistent = len(scores) == record.result.examples and 0.0 <= record.result.sparsity <= 1.0
    if not is_consistent or not all(map(math.isfinite, scores)):
        return Problem(
            ProblemKind.INVALID,
            key,
            f"{trial}: its number of examples, sparsity or scores are inconsistent or not finite",
        )
    return None


def _check_other_records(store: Store) -> Iterator[Problem]:
    for path in sorted((store.folder / "prepared").glob("*.json")):
        if not is_temporary(path) and decode_record(path.read_bytes(), path.stem) is None:
            text = f"{_relative_name(store, path)}: damaged file with the examples of a task"
            yield Problem(ProblemKind.CORRUPT, path.stem, text)
    for path in sorted((store.folder / "quarantine").glob("*")):
        key = path.name.partition(".")[0]
        if store.trial(key) is None and store.prepared(key) is None:
            text = f"{_relative_name(store, path)}: set aside because it was damaged, and not written again since"
            yield Problem(ProblemKind.CORRUPT, key, text)
    for path in sorted((store.folder / "conflicts").glob("*")):
        key = path.name.partition(".")[0]
        first = store.trial(key)
        trial = key[:12] if first is None else describe_trial(first)
        text = f"{trial}: finished twice with different numbers: {_relative_name(store, path)}"
        yield Problem(ProblemKind.CONFLICTING, key, text)


def _find_strays(store: Store) -> Iterator[Problem]:
    for path in sorted(store.folder.glob("**/*")):
        if is_temporary(path):
            yield Problem(ProblemKind.STRAY, path.name, f"{_relative_name(store, path)}: a temporary file")
    for path in sorted((store.folder / "samples").glob("*.parquet")):
        key, _, digest = path.name.removesuffix(".parquet").partition(".")
        record = store.trial(key)
        if record is None or not record.samples_sha256.startswith(digest):
            text = f"{_relative_name(store, path)}: scores that no finished trial refers to"
            yield Problem(ProblemKind.STRAY, key, text)
    for path in sorted(store.folder.glob("*")):
        if not _belongs_to_study(path):
            yield Problem(ProblemKind.STRAY, path.name, f"{_relative_name(store, path)}: not part of a study")


def _belongs_to_study(path: Path) -> bool:
    if is_temporary(path):  # listed as a temporary file already
        return True
    if path.is_dir():
        return path.name in STUDY_FOLDERS
    return path.name in STUDY_FILES or path.suffix in REPORT_SUFFIXES


def _check_plan(planner: Planner) -> Iterator[Problem]:
    """Yield the planned jobs that failed or are not finished, and dense trials whose score is 0."""
    for model in planner.models:
        yield from _check_attempts(planner, Job(model))
    for job in planner.known_jobs():
        if planner.finished_trial(job) is None:
            yield from _check_attempts(planner, job)
        elif job.rule is None:
            yield from _check_dense_score(planner, job)
    for job in planner.jobs():
        yield Problem(ProblemKind.MISSING, planner.key(job), f"{job}: not finished")


def _check_attempts(planner: Planner, job: Job) -> Iterator[Problem]:
    """Yield the last failed attempt at a job that is not finished."""
    key = planner.key(job)
    attempts = planner.store.failures(key)
    if not attempts:
        return
    last = attempts[-1]
    kind = ProblemKind.INVALID if last.kind is OutcomeKind.INVALID else ProblemKind.FAILED
    yield Problem(kind, key, f"{job}: {last.kind} in {len(attempts)} attempt(s): {last.summary}")


def _check_dense_score(planner: Planner, job: Job) -> Iterator[Problem]:
    """Yield a problem if the dense score is 0, so that a sparse score cannot be compared with it."""
    record = planner.finished_trial(job)
    if record is None or record.result.score > 0:
        return
    result = record.result
    text = f"{job}: {result.metric} is {result.score:g} on {result.examples} examples, so retention is undefined"
    yield Problem(ProblemKind.INVALID, planner.key(job), text)


def _relative_name(store: Store, path: Path) -> str:
    return str(path.relative_to(store.folder))
