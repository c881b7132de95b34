"""Execution of a study from the command line: progress, interruption, report and exit code."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sparsedial.cli.console import err, log
from sparsedial.cli.exit_codes import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_TERMINATED
from sparsedial.cli.report_command import print_results
from sparsedial.measurement.progress_display import ProgressDisplay

if TYPE_CHECKING:
    from sparsedial.measurement.result import Measurement


class _Terminated(KeyboardInterrupt):
    """Interrupt by SIGTERM, which is handled like Ctrl-C but has another exit code."""


def _raise_terminated(*_: object) -> None:
    raise _Terminated


@contextmanager
def run_until_interrupted() -> Iterator[ProgressDisplay]:
    """Show progress while a study runs. Ctrl-C and SIGTERM end it in order.

    Yields:
        ProgressDisplay: The listener for the study.

    Raises:
        typer.Exit: The run was interrupted.
    """
    from sparsedial.study.executors.process_tree import kill_descendants

    earlier_handler = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        with ProgressDisplay(err) as display:
            yield display
    except KeyboardInterrupt as interrupt:
        kill_descendants()  # otherwise Python waits at its end for helpers that a task has forked
        log("interrupted: finished trials are kept; run the same command again to resume")
        code = EXIT_TERMINATED if isinstance(interrupt, _Terminated) else EXIT_INTERRUPTED
        raise typer.Exit(code) from None
    finally:
        signal.signal(signal.SIGTERM, earlier_handler)


def print_measurement(measurement: Measurement, json: bool) -> None:
    """Print the main table of a finished study, its notes and problems.

    Args:
        measurement: The study, which has a directory.
        json: True to print the content of ``results.json`` as well.

    Raises:
        typer.Exit: The study is incomplete.
    """
    from sparsedial.optional_packages import find_missing_modules
    from sparsedial.report.output_folder import PAGE_NAME

    folder = measurement.folder or Path()
    if find_missing_modules("report"):
        print_results(measurement.results, "tables", folder, json)
    else:
        print_results(measurement.results, "report", folder / PAGE_NAME, json)
    if measurement.problems:
        raise typer.Exit(EXIT_INCOMPLETE)


def default_folder(name: str) -> Path:
    """Return the default output directory of a model or study.

    Args:
        name: Name of the model or of the study file.

    Returns:
        A path below ``runs``.

    Example:
        >>> str(default_folder("Qwen/Qwen2.5-0.5B"))
        'runs/Qwen-Qwen2.5-0.5B'
    """
    return Path("runs") / (re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "model")
