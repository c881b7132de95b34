"""What a study would run, and about how long: from the spec and its directory alone, without loading a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsedial.ffn import SITES
from sparsedial.study.plan import Found, Job, Plan, read_found
from sparsedial.study.search import FIRST, MOST_POINTS, dial_value
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store


@dataclass(frozen=True)
class Preview:
    """What is to come.

    Attributes:
        finished: trials that are there. jobs: trials that will be run (of a search: the next ones).
        further: how many more a search can ask for, at most.
        seconds: of ``jobs``, and of these with all that can follow; None where no finished trial tells.
        untimed: model and task of the jobs that no finished trial of theirs tells the time of.
        unknown: models that have not been loaded yet: their sites are taken from the spec, else all five.
    """

    finished: int
    jobs: list[Job]
    further: int
    seconds: tuple[float, float] | None
    untimed: list[tuple[str, str]]
    unknown: list[str]


def preview(spec: StudySpec, tasks: Mapping[str, dict[str, Any]], store: Store) -> Preview:
    """Look ahead; nothing is written and nothing is loaded.

    Args:
        spec: what to run. tasks: the identity of each, by name. store: of a folder that may not exist yet.
    """
    reader = Store(store.folder, repair=False)
    known = {model: found for model, found in read_found(reader).items() if model in spec.models}
    unknown = [model for model in dict.fromkeys(spec.models) if model not in known]
    guessed = {model: Found(model, {"unknown": model}, "", SITES, 0) for model in unknown}
    plan = Plan(spec, tasks, reader, {**known, **guessed})
    jobs: list[Job] = []
    further: dict[tuple[str, str], int] = defaultdict(int)
    for model in plan.found:
        jobs += plan.missing([Job(model, task) for task in tasks])
        for site, rule in plan.curves(model):
            values, missing = plan.values(model, site, rule)
            if spec.values is None and not values:  # the search waits for the dense trials
                values = [dial_value(rule, turned) for turned in FIRST]
                missing = [Job(model, task, site, rule, value) for value in values for task in tasks]
            elif spec.values is not None:
                missing = plan.missing([Job(model, task, site, rule, value) for value in values for task in tasks])
            if spec.values is None and missing:
                for task in tasks:
                    further[model, task] += MOST_POINTS - len(values)
            jobs += missing
    per_trial = _seconds(reader)
    pairs = [(job.model, str(job.task)) for job in jobs]
    untimed = [pair for pair in dict.fromkeys(pairs) if pair not in per_trial]
    now = sum(per_trial.get(pair, 0.0) for pair in pairs)
    later = sum(per_trial.get(pair, 0.0) * count for pair, count in further.items())
    return Preview(
        finished=sum(plan.finished(job) is not None for job in plan.known()),
        jobs=jobs,
        further=sum(further.values()),
        seconds=(now, now + later) if pairs and len(untimed) < len(set(pairs)) else None,
        untimed=untimed,
        unknown=unknown,
    )


def _seconds(store: Store) -> dict[tuple[str, str], float]:
    """Mean seconds of a finished trial, by model and task."""
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in store.trials():
        taken[record["labels"]["model"], record["labels"]["task"]].append(record["seconds"])
    return {pair: sum(seconds) / len(seconds) for pair, seconds in taken.items()}
