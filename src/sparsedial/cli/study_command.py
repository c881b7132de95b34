"""``sparsedial study``: run the study that a YAML file describes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsedial.cli.console import print_json, set_output
from sparsedial.cli.dry_run_output import describe_needs, print_needs
from sparsedial.cli.execution import default_folder, print_measurement, run_until_interrupted
from sparsedial.cli.exit_codes import EXIT_USER_ERROR
from sparsedial.cli.options import OUTPUT_PANEL, Device, JsonOutput, Quiet, RetryFailed
from sparsedial.cli.parsing import parse_values
from sparsedial.cli.run_options import Values
from sparsedial.errors import SpecError
from sparsedial.study.run_command_options import option_name

if TYPE_CHECKING:
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

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="List the trials of the study, what they take, and which models and tasks cannot be run, and end.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
CardName = Annotated[
    str | None,
    typer.Option(
        "--card",
        help="Device whose measured speed and memory --dry-run assumes, such as H100. Default: this machine's.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        help="Time limit of each trial in seconds. A worker that takes longer is killed. Default: no limit.",
        rich_help_panel=WORKERS_PANEL,
    ),
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
    dry_run: DryRun = False,
    card: CardName = None,
    p: Values = None,
    device: Device = "auto",
    workers: Workers = "local",
    ray_address: RayAddress = None,
    num_workers: NumWorkers = None,
    gpus_per_worker: GpusPerWorker = None,
    cpus_per_worker: CpusPerWorker = 1.0,
    timeout: Timeout = None,
    retry_failed: RetryFailed = False,
    json: JsonOutput = False,
    quiet: Quiet = False,
) -> None:
    """Run a study of several models, sites, rules and tasks, and write a report.

    Run the same command again to resume a study, or to run trials that were added to its YAML file.
    """
    from sparsedial.measurement.study_measurement import measure_study
    from sparsedial.study.dataclass_parsing import raise_problems
    from sparsedial.study.executors.base import ExecutorConfig
    from sparsedial.study.spec import StudySpec

    set_output(json, quiet)
    spec = StudySpec.from_yaml(spec_file)
    problems: list[str] = []
    if p:
        spec = replace(spec, values=parse_values(p, option_name("values"), problems))
    raise_problems(problems)
    folder = out_dir or default_folder(spec_file.stem)
    executor = ExecutorConfig(workers, timeout, ray_address, num_workers, gpus_per_worker, cpus_per_worker)
    if dry_run:
        _preview(spec, folder, device, executor, card, json)
        return
    if card is not None:
        raise SpecError(f"--card {card}: it has no effect without --dry-run. Add --dry-run, or leave it out.")
    with run_until_interrupted() as display:
        measurement = measure_study(
            spec, folder, device=device, listener=display, executor=executor, retry_failed=retry_failed
        )
    print_measurement(measurement, json)


def _preview(
    spec: StudySpec, folder: Path, device: str, executor: ExecutorConfig, card: str | None, json: bool
) -> None:
    """Print what the study takes. The exit code is 2 if something cannot be run."""
    from sparsedial.report.csv_and_json import to_json
    from sparsedial.study.cost.study_needs import choose_resources, find_needs
    from sparsedial.study.dataclass_parsing import raise_problems
    from sparsedial.study.integrity import check_study_readable
    from sparsedial.study.store import Store

    check_study_readable(folder)
    raise_problems(spec.absent_object_problems())
    problems = [*executor.problems(), *spec.setting_problems(device if card is None else "auto")]
    needs = find_needs(spec, Store(folder), choose_resources(device, executor, card))
    print_needs(needs, spec, problems)
    if json:
        print_json(to_json(describe_needs(needs, problems)))
    if problems or not needs.can_run:
        raise typer.Exit(EXIT_USER_ERROR)
