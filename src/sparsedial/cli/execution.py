"""Execution of a study from the command line: progress, interruption, report and exit code."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sparsedial.cli.console import ProgressDisplay, log
from sparsedial.cli.report_command import write_and_print_report

if TYPE_CHECKING:
    from sparsedial.study.executors.base import ExecutorConfig
    from sparsedial.study.spec import StudySpec

EXIT_INCOMPLETE = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class _Terminated(KeyboardInterrupt):
    """Interrupt by SIGTERM, which is handled like Ctrl-C but has another exit code."""


def _raise_terminated(*_: object) -> None:
    raise _Terminated


def execute_study(
    spec: StudySpec,
    folder: Path,
    device: str,
    executor: ExecutorConfig,
    *,
    retry_failed: bool,
    argument_problems: Sequence[str] = (),
) -> None:
    """Run a study, write its report, and print the main table.

    Args:
        spec: The study.
        folder: Directory of the study.
        device: Device of the models.
        executor: Configuration of the workers.
        retry_failed: Run failed trials of earlier runs again.
        argument_problems: Problems of the command line. They are reported together with those of the spec.

    Raises:
        typer.Exit: The run was interrupted, or the study is incomplete.
    """
    from sparsedial.study.dataclass_parsing import raise_problems
    from sparsedial.study.executors.process_tree import kill_descendants
    from sparsedial.study.integrity import find_problems
    from sparsedial.study.runner import run_study
    from sparsedial.study.study_lock import lock_study

    if argument_problems:
        raise_problems([*argument_problems, *spec.problems(device)])
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        with ProgressDisplay() as display:
            store = run_study(
                spec, folder, device=device, listener=display, executor=executor, retry_failed=retry_failed
            )
    except KeyboardInterrupt as interrupt:
        kill_descendants()  # otherwise Python waits at its end for helpers that a task has forked
        log("interrupted: finished trials are kept; run the same command again to resume")
        code = EXIT_TERMINATED if isinstance(interrupt, _Terminated) else EXIT_INTERRUPTED
        raise typer.Exit(code) from None
    with lock_study(store.folder, spec.to_json()):  # the report shows the study that study.json describes
        write_and_print_report([store.folder])
        problems = [problem for problem in find_problems(store) if not problem.kind.is_harmless]
    if problems:
        log(f"{len(problems)} problem(s) found. To list them, run: sparsedial fsck {store.folder}")
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
