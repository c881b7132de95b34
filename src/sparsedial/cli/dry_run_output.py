"""The output of ``sparsedial study --dry-run``: the trials, what they take, and what cannot be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sparsedial.cli.console import out
from sparsedial.measurement.progress_display import escape_markup
from sparsedial.models.device_memory import GIB
from sparsedial.models.parameter_count import format_parameter_count

if TYPE_CHECKING:
    from sparsedial.study.cost.study_needs import ModelNeeds, Resources, StudyNeeds
    from sparsedial.study.cost.trial_time import SecondsRange
    from sparsedial.study.dry_run import Preview
    from sparsedial.study.spec import StudySpec

UNKNOWN = "–"
SCHEMA = 1
"""Version of the JSON document."""


def describe_needs(needs: StudyNeeds, problems: Sequence[str]) -> dict[str, Any]:
    """Return what a study takes as plain data.

    Args:
        needs: What the study takes.
        problems: Problems of the other settings of the study.

    Returns:
        The content of the JSON document. Sizes are in bytes, times in seconds of one worker.
    """
    finished = 0
    jobs: list[str] = []
    further = 0
    if needs.preview is not None:
        finished = needs.preview.finished_trials
        jobs = [str(job) for job in needs.preview.jobs]
        further = needs.preview.max_further_trials
    return {
        "schema": SCHEMA,
        "can_run": needs.can_run and not problems,
        "problems": list(dict.fromkeys([*problems, *needs.problems])),
        "finished_trials": finished,
        "trials": jobs,
        "max_further_trials": further,
        "models": [asdict(model) for model in needs.models],
        "tasks": [{"task": entry.spec.name, "problem": entry.problem} for entry in needs.tasks],
        "seconds": None if needs.time is None else asdict(needs.time),
        "download": needs.download,
        "disk": needs.disk,
    }


def print_needs(needs: StudyNeeds, spec: StudySpec, problems: Sequence[str]) -> None:
    """Print the trials of a study, what its models and tasks take, and all problems.

    Args:
        needs: What the study takes.
        spec: The study.
        problems: Problems of the other settings of the study.
    """
    if needs.preview is not None:
        for job in needs.preview.jobs:
            out.print(escape_markup(str(job)), soft_wrap=True)
    out.print(_model_table(needs))
    out.print(_task_table(needs, spec))
    if needs.preview is not None:
        _print_trials(needs.preview, spec)
        _print_finished_time(needs.preview)
    _print_estimated_time(needs)
    _print_disk(needs)
    for model in needs.models:
        for note in model.notes:
            _print_line(f"note: {model.model}: {note}")
    _print_problems([*problems, *needs.problems])


def _print_problems(problems: Sequence[str]) -> None:
    """Print the first line of each problem, and then the advice in their other lines, once each."""
    advice: dict[str, None] = {}
    for problem in dict.fromkeys(problems):
        first, *others = problem.splitlines()
        _print_line(f"cannot be run: {first}")
        advice.update(dict.fromkeys(others))
    for line in advice:
        _print_line(line)


def _print_line(text: str) -> None:
    out.print(escape_markup(text), soft_wrap=True)


def _model_table(needs: StudyNeeds) -> Table:
    table = Table(title="Models", title_justify="left")
    for column in ("model", "parameters", "memory (weights)", "trials", "hours", "can run"):
        table.add_column(column, overflow="fold")
    for model in needs.models:
        table.add_row(escape_markup(model.model), *_describe_model(model), _describe_ability(model.problem))
    return table


def _describe_ability(problem: str | None) -> str:
    return "yes" if problem is None else "no"


def _describe_model(model: ModelNeeds) -> tuple[str, str, str, str]:
    """Return the number of parameters, the memory, the trials and the hours of one model as text."""
    parameters = UNKNOWN
    memory = UNKNOWN
    hours = UNKNOWN
    if model.parameters is not None:
        parameters = format_parameter_count(model.parameters)
    if model.memory is not None:
        memory = f"{format_bytes(model.memory.total)} ({format_bytes(model.memory.weights)})"
    if model.time is not None:
        hours = _format_range(model.time)
    return parameters, memory, _join_range(str(model.trials[0]), str(model.trials[1])), hours


def _task_table(needs: StudyNeeds, spec: StudySpec) -> Table:
    from sparsedial.study.cost.task_check import count_examples

    table = Table(title="Tasks", title_justify="left")
    for column in ("task", "examples", "can run"):
        table.add_column(column, overflow="fold")
    for entry in needs.tasks:
        count = count_examples(entry.tasks, spec.max_examples)
        name = entry.spec.name
        if len(entry.tasks) > 1:
            name += f" ({len(entry.tasks)} tasks)"
        table.add_row(escape_markup(name), str(count or UNKNOWN), _describe_ability(entry.problem))
    return table


def _print_trials(preview: Preview, spec: StudySpec) -> None:
    further = f", then at most {preview.max_further_trials} more for the search" if preview.max_further_trials else ""
    _print_line(f"{preview.finished_trials} trials finished, {len(preview.jobs)} to run{further}")
    assumption = "the sites of the spec are assumed" if spec.sites else "all sites are assumed"
    for model in preview.unresolved_models:
        _print_line(f"model {model} has not been loaded yet: {assumption}")


def _print_finished_time(preview: Preview) -> None:
    """Print the time that follows from finished trials in the directory, if there are any."""
    if preview.seconds is None:
        return
    low, high = preview.seconds
    upper_end = f" to {format_duration(high)}" if preview.max_further_trials else ""
    _print_line(f"time: {format_duration(low)}{upper_end} on one worker that is as fast as in the finished trials")
    for model, task in preview.untimed:
        _print_line(f"time: {model}, {task} is not included, because it has no finished trial in this directory")


def _print_estimated_time(needs: StudyNeeds) -> None:
    """Print the time that follows from measured forward passes."""
    resources = needs.resources
    if resources.card is None:
        _print_line(
            "time: not estimated, because the device of this machine was not measured. Choose a measured one with "
            "--card, or measure this one: python -m benchmarks.bench_forward_cost --save"
        )
    elif needs.time is not None:
        seconds = needs.time * resources.cards_per_worker
        unit = {"cuda": "GPU-hours"}.get(resources.card.device, "hours")
        _print_line(
            f"estimate: {_format_range(seconds)} {unit} on {resources.card.name}, without loading and downloads "
            f"(speed measured by {resources.card.source}); {_describe_workers(resources, needs.time)}"
        )


def _describe_workers(resources: Resources, time: SecondsRange) -> str:
    low = format_duration(time.low / resources.workers)
    duration = _join_range(low, format_duration(time.high / resources.workers))
    if resources.workers == 1:
        return f"{duration} with one worker, and less in proportion to their number (--workers ray)"
    return f"{duration} with {resources.workers} workers"


def _print_disk(needs: StudyNeeds) -> None:
    _print_line(
        f"disk: {format_bytes(needs.download)} of weights that are kept in the hub's cache or a directory, at most "
        f"about {format_bytes(needs.disk)} of trials, and the data sets of the tasks"
    )


def _format_range(seconds: SecondsRange) -> str:
    """Return a range of hours."""
    return _join_range(_format_hours(seconds.low), _format_hours(seconds.high))


def _join_range(low: str, high: str) -> str:
    """Return both ends of a range, or one text if they are equal."""
    if low == high:
        return low
    return f"{low} to {high}"


def _format_hours(seconds: float) -> str:
    """Return a number of hours with two significant digits."""
    hours = seconds / 3600
    if hours >= 10:
        return f"{hours:.0f}"
    return f"{hours:.2g}"


def format_bytes(count: float) -> str:
    """Return a number of bytes in the largest suitable unit.

    Args:
        count: Number of bytes.

    >>> format_bytes(3 * 2**30), format_bytes(2.5 * 2**20), format_bytes(1000)
    ('3.0 GiB', '2.5 MiB', '1 KiB')
    """
    if count >= GIB:
        return f"{count / GIB:.1f} GiB"
    if count >= 1 << 20:
        return f"{count / (1 << 20):.1f} MiB"
    return f"{count / 1024:.0f} KiB"


def format_duration(seconds: float) -> str:
    """Return a duration in the largest suitable unit.

    Args:
        seconds: The duration.

    >>> format_duration(90), format_duration(600), format_duration(9000)
    ('90 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
