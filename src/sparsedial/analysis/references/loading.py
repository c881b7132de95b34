"""Loading of references: the built-in one by its name, files of the reference format, and written results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from operator import attrgetter
from pathlib import Path

import pandas as pd

from sparsedial.analysis.estimates import finite_number, is_true
from sparsedial.analysis.exported_results import load_json, parse_results
from sparsedial.analysis.labels import is_average
from sparsedial.analysis.references.records import Reference, ReferenceModel, ReferencePoint, ReferenceValue
from sparsedial.analysis.references.reference_file import is_reference_file, parse_reference_file
from sparsedial.analysis.references.row_matching import is_whole_model, list_averaged_tasks
from sparsedial.analysis.result_sources import read_results
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_selection import rows_with_estimate_or_interval, rows_with_numbers
from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.errors import SpecError
from sparsedial.suggestions import suggest

BUILT_IN = ("paper",)
"""Names of the references that come with sparsedial: ``paper`` is arXiv 2509.00454."""


def load_references(texts: Sequence[str]) -> tuple[Reference, ...]:
    """Load several references. Those with equal names are named after their paths.

    Args:
        texts: Names and paths, see `load_reference`. One that is given twice is loaded once.

    Returns:
        The references.

    Raises:
        SpecError: There is no such reference, or a file is malformed.
        StorageError: A file or a directory cannot be read.
    """
    by_text = {text: load_reference(text) for text in texts}
    names = list(map(attrgetter("name"), by_text.values()))
    references = []
    for text, reference in by_text.items():
        name = text if names.count(reference.name) > 1 else reference.name
        references.append(replace(reference, name=name))
    return tuple(references)


def load_reference(text: str) -> Reference:
    """Load a reference.

    Args:
        text: Name of a built-in reference, or a path: a reference file, a ``results.json``, a ``critical.csv``, the
            directory of a report, or the directory of a study.

    Returns:
        The reference.

    Raises:
        SpecError: There is no such reference, or the file is malformed.
        StorageError: The file or the directory cannot be read.
    """
    if text in BUILT_IN:
        data = json.loads((files("sparsedial.analysis.references") / f"{text}.json").read_bytes())
        return parse_reference_file(data, text)
    path = Path(text)
    if path.is_dir() or path.suffix == ".csv":
        return _results_as_reference(read_results([path]), path)
    if not path.is_file():
        question = suggest(text, BUILT_IN)
        hint = f" {question[0].upper()}{question[1:]}" if question else ""
        raise SpecError(
            f"unknown reference {text!r}: neither {', '.join(BUILT_IN)} nor an existing path. Expected a reference "
            f"file, or the directory, results.json or critical.csv of a report.{hint}"
        )
    data = load_json(path)
    if is_reference_file(data):
        return parse_reference_file(data, str(path))
    return _results_as_reference(parse_results(data, path), path)


def _results_as_reference(results: Results, path: Path) -> Reference:
    models: dict[str, ReferenceModel] = {}
    values = []
    critical = results.critical[results.critical["layers"].map(is_whole_model)]
    for row in rows_with_estimate_or_interval(critical).to_dict("records"):
        name = str(row["model"])
        models.setdefault(name, ReferenceModel(name, str(row["family"]), finite_number(row["parameters"])))
        averaged_tasks: tuple[str, ...] = ()
        if is_average(str(row["task"])):
            averaged_tasks = list_averaged_tasks(critical, row)
        values.append(
            ReferenceValue(
                model=name,
                source=path.resolve().name,
                site=str(row["site"]),
                task=str(row["task"]),
                averaged_tasks=averaged_tasks,
                value=finite_number(row["sparsity"]),
                low=finite_number(row["low"]),
                high=finite_number(row["high"]),
                rule=str(row["rule"]),
                is_lower_bound=row["status"] == RIGHT_CENSORED,
                is_high_censored=is_true(row["high_censored"]),
            )
        )
    points = _read_points(results.points, set(models))
    return Reference(
        name=path.resolve().name if path.is_dir() else path.stem,
        description=f"results in {path}",
        retain=results.retain,
        models=tuple(models.values()),
        values=tuple(values),
        points=points,
    )


def _read_points(points: pd.DataFrame, models: set[str]) -> tuple[ReferencePoint, ...]:
    records = []
    for row in rows_with_numbers(points, "sparsity", "retention").to_dict("records"):
        if row["model"] in models and is_whole_model(row["layers"]):
            label = (str(row["model"]), str(row["site"]), str(row["task"]), str(row["rule"]))
            records.append(ReferencePoint(*label, sparsity=float(row["sparsity"]), retention=float(row["retention"])))
    return tuple(records)
