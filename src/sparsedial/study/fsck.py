"""What is wrong with a study's directory. It only reads: nothing is moved, run or repaired."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedial.disk import is_temporary
from sparsedial.errors import SparsedialError, StoreError
from sparsedial.study.plan import OUTCOMES, Found, Job, Plan, read_found
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store, digest, sealed

# Every kind of problem, in the order they are told, and what to do about it.
KINDS = {
    "corrupt": "run the study again: damaged files go to quarantine/, and only their trials are run again",
    "conflicting": "two runs gave different numbers; the first one counts. Compare, then delete the file in conflicts/",
    "invalid": "its numbers cannot be used: change the task, its limit or the dtype, or leave it out",
    "failed": "run the study with --retry-failed, or leave it out",
    "missing": "run the study again: it goes on where it stopped",
    "stray": "left by a run that died, or not of this study: harmless, may be deleted",
}
FILES = {"study.json", "resolved.json"}
FOLDERS = {"trials", "samples", "prepared", "specs", "failed", "quarantine", "conflicts", "figures"}
REPORTS = {".html", ".csv", ".json", ".svg", ".png", ".log", ".txt", ".md", ".yaml", ".yml"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its kind (of `KINDS`), the trial's key or the file, and a sentence."""

    kind: str
    key: str
    text: str


def fsck(store: Store) -> list[Problem]:
    """Everything that is missing, failed, corrupt, conflicting, invalid or stray, sorted by kind.

    What the current ``study.json`` no longer asks for is neither missing nor failed.
    """
    reader = Store(store.folder, repair=False)
    problems = [*_trials(reader), *_others(reader), *_strays(reader)]
    try:
        plan = read_plan(reader)
    except SparsedialError as error:
        problems.append(Problem("corrupt", "study.json", str(error)))
    else:
        problems += _against(plan)
    order = list(KINDS)
    return sorted(problems, key=lambda p: (order.index(p.kind), p.text))


def read_plan(store: Store) -> Plan:
    """The plan of a study as its directory tells it, without a model or a task.

    Raises:
        StoreError, SpecError: ``study.json`` is not there, damaged, or of a newer version.
    """
    spec = StudySpec.from_json(store.read_spec(), str(store.folder / "study.json"))
    resolved = store.read_resolved() or {}
    tasks = {str(task.get("task")): task for task in resolved.get("tasks", [])}
    found = read_found(store)
    if "found" not in resolved and resolved:
        found = _found_in_trials(store, resolved)
    return Plan(spec, tasks, store, found)


def _found_in_trials(store: Store, resolved: dict[str, Any]) -> dict[str, Found]:
    """What older versions did not write down, from the finished trials."""
    found: dict[str, Found] = {}
    for record in store.trials():
        identity, labels = record["identity"], record["labels"]
        if identity["model"] in resolved.get("models", []) and identity["site"] is not None:
            old = found.get(labels["model"])
            sites = (*(old.sites if old else ()), identity["site"])
            found[labels["model"]] = Found(
                labels["model"], identity["model"], identity["ffns"], tuple(dict.fromkeys(sites)), labels["parameters"]
            )
    return found


def _trials(store: Store) -> Iterator[Problem]:
    for path in sorted((store.folder / "trials").glob("*/*.json")):
        if is_temporary(path):
            continue
        try:
            record = sealed(path.read_bytes(), path.stem)
        except OSError as error:
            yield Problem("corrupt", path.stem, f"{_name(store, path)}: {error.strerror}")
            continue
        if record is None:
            yield Problem("corrupt", path.stem, f"{_name(store, path)}: damaged")
            continue
        words = describe(record)
        try:
            scores = store.samples(record)
        except SparsedialError as error:
            yield Problem("corrupt", path.stem, f"{words}: {error}")
            continue
        result = record["result"]
        usable = digest(record["identity"]) == path.stem and len(scores) == result["examples"]
        usable = usable and all(map(math.isfinite, scores)) and 0.0 <= result["sparsity"] <= 1.0
        if not usable:
            yield Problem("invalid", path.stem, f"{words}: its numbers contradict each other")


def _others(store: Store) -> Iterator[Problem]:
    for path in sorted((store.folder / "prepared").glob("*.json")):
        if not is_temporary(path) and sealed(path.read_bytes(), path.stem) is None:
            yield Problem("corrupt", path.stem, f"{_name(store, path)}: damaged: its task's examples")
    for path in sorted((store.folder / "quarantine").glob("*")):
        key = path.name.partition(".")[0]
        if store.trial(key) is None and store.prepared(key) is None:
            yield Problem("corrupt", key, f"{_name(store, path)}: set aside, and not run again since")
    for path in sorted((store.folder / "conflicts").glob("*")):
        key = path.name.partition(".")[0]
        first = store.trial(key)
        words = describe(first) if first else key[:12]
        yield Problem("conflicting", key, f"{words}: finished twice with different numbers: {_name(store, path)}")


def _strays(store: Store) -> Iterator[Problem]:
    for path in sorted(store.folder.glob("**/*")):
        if is_temporary(path):
            yield Problem("stray", path.name, f"{_name(store, path)}: a temporary file")
    for path in sorted((store.folder / "samples").glob("*.parquet")):
        key, _, seal = path.name.removesuffix(".parquet").partition(".")
        record = store.trial(key)
        if record is None or (seal and not record["samples_sha256"].startswith(seal)):
            yield Problem("stray", key, f"{_name(store, path)}: scores that no finished trial refers to")
    for path in sorted(store.folder.glob("*")):
        known = path.name in FOLDERS if path.is_dir() else path.name in FILES or path.suffix in REPORTS
        if not known and not is_temporary(path):
            yield Problem("stray", path.name, f"{_name(store, path)}: not of a study")


def _against(plan: Plan) -> Iterator[Problem]:
    """What the plan asks for and does not have."""
    opened = [Job(model) for model in dict.fromkeys(plan.spec.models)]
    for job in (*opened, *plan.known()):
        attempts = plan.store.failures(plan.key(job))
        if attempts and (job.task is None or plan.finished(job) is None):
            last = attempts[-1]
            kind = "invalid" if last["kind"] == "invalid" else "failed"
            what = last["message"].splitlines()[0] if last["message"] else OUTCOMES.get(last["kind"], last["kind"])
            text = f"{job}: {last['kind']} in {len(attempts)} attempt(s): {what}"
            yield Problem(kind, plan.key(job), text)
        elif job.site is None and job.task is not None and (record := plan.finished(job)):
            score, metric = record["result"]["score"], record["result"]["metric"]
            if score <= 0:
                text = f"{job}: {metric} is {score:g} on {record['result']['examples']} examples: nothing to retain"
                yield Problem("invalid", plan.key(job), text)
    for job in plan.jobs():
        yield Problem("missing", plan.key(job), f"{job}: not finished")


def describe(record: dict[str, Any]) -> str:
    """A finished trial in words."""
    identity, labels = record["identity"], record["labels"]
    rule = identity["rule"] or {}
    return str(Job(labels["model"], labels["task"], identity["site"], rule.get("rule"), rule.get("value")))


def _name(store: Store, path: Path) -> str:
    return str(path.relative_to(store.folder))


def check_study(folder: Path) -> None:
    """Raise if ``folder`` holds a study that must not be written over: a damaged one, or a newer version's.

    Raises:
        StoreError, SpecError: naming ``study.json``; nothing has been touched.
    """
    path = folder / "study.json"
    if path.exists():
        try:
            StudySpec.from_json(Store(folder).read_spec(), str(path))
        except SparsedialError as error:
            raise StoreError(str(error)) from None
