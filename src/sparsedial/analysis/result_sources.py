"""Results from directories: of studies, or of reports whose trials are not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from sparsedial.analysis.exported_results import REQUIRED_COLUMNS, holds_exported_results, read_exported_results
from sparsedial.analysis.results import Results, compute_results
from sparsedial.analysis.row_order import layer_ranges
from sparsedial.errors import SpecError
from sparsedial.study.folder_layout import holds_study
from sparsedial.study.requirement_text import describe_required
from sparsedial.study.store import Store


def read_results(paths: Sequence[Path], retain: float | None = None) -> Results:
    """Read the results in one or several directories. Studies are computed together from their trials.

    Args:
        paths: Directories of studies, directories of reports, or files with critical sparsities.
        retain: Share of the dense score to keep. Defaults to the share that the studies require or the reports state.

    Returns:
        The results. Those of reports without trials are added to those of the studies.

    Raises:
        StorageError: A directory cannot be read.
        SpecError: A directory holds neither a study nor a report, a table is malformed, the directories are about
            different shares of the dense score, or two of them hold the same curve.
    """
    studies = []
    reports = []
    for path in {path.resolve(): path for path in paths}.values():
        if path.is_dir() and holds_study(path):
            studies.append(path)
        elif holds_exported_results(path):
            reports.append(path)
        else:
            raise SpecError(
                f"{path}: neither a study nor a report. Expected the directory of a run, or a directory with "
                "results.json or critical.csv."
            )
    parts: list[tuple[str, Results]] = []
    if studies:
        names = ", ".join(map(str, studies))
        parts.append((names, compute_results([Store(path) for path in studies], retain)))
    for path in reports:
        parts.append((str(path), read_exported_results(path)))
    _check_retain(parts, retain)
    if len(parts) == 1:
        return parts[0][1]
    return _join(parts)


def _check_retain(parts: Sequence[tuple[str, Results]], retain: float | None) -> None:
    """Raise a `SpecError` unless all results are about the same share of the dense score."""
    expected = parts[0][1].retain if retain is None else retain
    for name, results in parts:
        if results.retain != expected:
            raise SpecError(
                f"{name}: holds critical sparsities that keep {describe_required(results.retain)}, expected those that "
                f"keep {describe_required(expected)}. Others can be computed from the directory of a study only "
                "(--retain)."
            )


def _join(parts: Sequence[tuple[str, Results]]) -> Results:
    """Return the results of all parts. A curve that is in two of them would be drawn twice, and is an error."""
    owners: dict[tuple[str, ...], str] = {}
    for name, results in parts:
        for row in results.critical.to_dict("records"):
            curve = (
                str(row["model"]),
                str(row["site"]),
                str(row["rule"]),
                layer_ranges(row["layers"]),
                str(row["task"]),
            )
            owner = owners.setdefault(curve, name)
            if owner != name:
                raise SpecError(
                    f"{row['model']}, {row['site']}, {row['task']}: in {owner} and in {name}. Leave out one of them, "
                    "or pass one with --reference."
                )
    tables: dict[str, Any] = {}
    for table in REQUIRED_COLUMNS:
        frames = []
        for _, results in parts:
            frame = getattr(results, table)
            if not frame.empty:
                frames.append(frame)
        tables[table] = pd.DataFrame()
        if frames:
            tables[table] = pd.concat(frames, ignore_index=True)
    problems = []
    for _, results in parts:
        problems += results.problems
    return replace(parts[0][1], **tables, problems=problems)
