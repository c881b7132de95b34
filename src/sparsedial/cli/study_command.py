"""``sparsedial study``: run the study that a YAML file describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsedial.cli.console import out
from sparsedial.cli.execution import default_folder, print_measurement, run_until_interrupted
from sparsedial.cli.options import OUTPUT_PANEL, Device, RetryFailed
from sparsedial.measurement.progress_display import escape_markup

if TYPE_CHECKING:
    from sparsedial.study.dry_run import Preview
    from sparsedial.study.executors.base import ExecutorConfig
    from sparsedial.study.spec import StudySpec

WORKERS_PANEL = "Workers"

Workers = Annotated[
    str,
    typer.Option(
        help="Where trials are run: local (one at a time on this machine) or ray (on a Ray cluster).",
        rich_help_panel=WORKERS_PANEL,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Address of a Ray cluster. Default: the environment variable RAY_ADDRESS, else a cluster that is "
        "running on this machine, else a new cluster on this machine.",
        rich_help_panel=WORKERS_PANEL,
    ),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(
        help="Number of Ray workers. Default: as many as fit into the cluster.", rich_help_panel=WORKERS_PANEL
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        help="Number of GPUs per Ray worker. Default: 1 if the cluster has GPUs and --device is not cpu, otherwise 0.",
        rich_help_panel=WORKERS_PANEL,
    ),
]
CpusPerWorker = Annotated[
    float, typer.Option(help="Number of CPUs and of threads per Ray worker.", rich_help_panel=WORKERS_PANEL)
]


def study(  # noqa: PLR0913 - one parameter per command-line option
    spec_file: Annotated[
        Path,
        typer.Argument(metavar="SPEC.yaml", help="YAML file that describes the study. docs/studies.md lists its keys."),
    ],
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Output directory. Default: runs/<name of the file>.", rich_help_panel=OUTPUT_PANEL),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="List the trials of the study and estimate their duration, without running them.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
    device: Device = "auto",
    workers: Workers = "local",
    ray_address: RayAddress = None,
    num_workers: NumWorkers = None,
    gpus_per_worker: GpusPerWorker = None,
    cpus_per_worker: CpusPerWorker = 1.0,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Time limit of each trial in seconds. A worker that takes longer is killed. Default: no limit.",
            rich_help_panel=WORKERS_PANEL,
        ),
    ] = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Run a study of several models, sites, rules and tasks, and write a report.

    Run the same command again to resume a study, or to run trials that were added to its YAML file.
    """
    from sparsedial.measurement.study_measurement import measure_study
    from sparsedial.study.executors.base import ExecutorConfig
    from sparsedial.study.spec import StudySpec

    spec = StudySpec.from_yaml(spec_file)
    folder = out_dir or default_folder(spec_file.stem)
    executor = ExecutorConfig(workers, timeout, ray_address, num_workers, gpus_per_worker, cpus_per_worker)
    if dry_run:
        _print_preview(spec, folder, device, executor)
        return
    with run_until_interrupted() as display:
        measurement = measure_study(
            spec, folder, device=device, listener=display, executor=executor, retry_failed=retry_failed
        )
    print_measurement(measurement)


def _print_preview(spec: StudySpec, folder: Path, device: str, executor: ExecutorConfig) -> None:
    from sparsedial.study.dataclass_parsing import raise_problems
    from sparsedial.study.dry_run import preview_study
    from sparsedial.study.integrity import check_study_readable
    from sparsedial.study.store import Store

    check_study_readable(folder)
    raise_problems([*executor.problems(), *spec.problems(device)])
    preview = preview_study(spec, Store(folder))
    for job in preview.jobs:
        out.print(escape_markup(str(job)), soft_wrap=True)
    further = f", then at most {preview.max_further_trials} more for the search" if preview.max_further_trials else ""
    out.print(f"{preview.finished_trials} trials finished, {len(preview.jobs)} to run{further}")
    assumption = "the sites of the spec are assumed" if spec.sites else "all sites are assumed"
    for model in preview.unresolved_models:
        out.print(f"model {escape_markup(model)} has not been loaded yet: {assumption}", soft_wrap=True)
    _print_duration(preview)


def _print_duration(preview: Preview) -> None:
    if preview.seconds is None:
        out.print("time: unknown, because none of these models and tasks has a finished trial in this directory")
        return
    low, high = preview.seconds
    upper_end = f" to {_format_duration(high)}" if preview.max_further_trials else ""
    out.print(f"time: {_format_duration(low)}{upper_end} on one worker that is as fast as in the finished trials")
    for model, task in preview.untimed:
        pair = escape_markup(f"{model}, {task}")
        out.print(f"time: {pair} is not included, because it has no finished trial in this directory", soft_wrap=True)


def _format_duration(seconds: float) -> str:
    """Return a duration in the largest suitable unit.

    >>> _format_duration(90), _format_duration(600), _format_duration(9000)
    ('90 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
