"""A study is run and returned with its results: what `sparsedial.measure` and the command line have in common."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from sparsedial.analysis.displayed_curves import read_displayed_curves
from sparsedial.analysis.results import Results, compute_results
from sparsedial.measurement.result import Measurement
from sparsedial.models.in_memory import ready_to_measure
from sparsedial.optional_packages import describe_missing_extra, find_missing_modules
from sparsedial.report.table_files import write_tables
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.in_memory import NO_OBJECTS, ObjectsInMemory
from sparsedial.study.progress_listener import ProgressListener
from sparsedial.study.runner import LOCAL, run_study
from sparsedial.study.spec import StudySpec
from sparsedial.study.study_lock import lock_study


def measure_study(  # noqa: PLR0913 - keyword-only options
    spec: StudySpec,
    folder: Path | None = None,
    *,
    device: str = "auto",
    listener: ProgressListener | None = None,
    executor: ExecutorConfig = LOCAL,
    retry_failed: bool = False,
    objects: ObjectsInMemory = NO_OBJECTS,
) -> Measurement:
    """Run a study and return its results. If a directory is given, the report is written to it.

    If the extra ``report`` is not installed, the directory gets the tables of the report only.

    Models in memory are in evaluation mode while the study runs, and compiled ones run without their compiled code.

    Args:
        spec: The study.
        folder: Directory of the study. Defaults to None, which means a temporary one.
        device: Device of the models that are loaded by their names.
        listener: Receives messages and progress. Defaults to None.
        executor: Where trials are run. Defaults to this process.
        retry_failed: Run failed trials of earlier runs again. Defaults to False.
        objects: The models and tasks of the study that are objects in memory. Defaults to none.

    Returns:
        The results.
    """
    missing_report = describe_missing_extra("report", "the report")
    if missing_report is not None and folder is not None and listener is not None:
        listener.log(f"{missing_report}. The tables are written without it.")
    with ExitStack() as cleanup:
        target = folder or Path(cleanup.enter_context(TemporaryDirectory()))
        with ExitStack() as modes:
            for model in objects.models.values():
                modes.enter_context(ready_to_measure(model.model))
            store = run_study(
                spec,
                target,
                device=device,
                listener=listener,
                executor=executor,
                retry_failed=retry_failed,
                objects=objects,
            )
        cleanup.enter_context(lock_study(target, spec.to_json()))  # the results are those of this study
        measurement = Measurement(compute_results(store), read_displayed_curves(store), folder)
        if folder is not None:
            _write_results(measurement.results, folder)
    return measurement


def _write_results(results: Results, folder: Path) -> None:
    """Write the report, or only its tables if what draws its figures is not installed."""
    if find_missing_modules("report"):
        write_tables(results, folder)
        return
    from sparsedial.report.html_page import write_report

    write_report(results, folder)
