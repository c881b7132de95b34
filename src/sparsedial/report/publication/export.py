"""Export of figures for publications as SVG, PDF and PNG files, with their captions and a comparison table.

A PDF embeds its fonts. An SVG keeps its text as text, in a chain of sans-serif fonts of equal widths.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import vl_convert

from sparsedial.errors import SpecError
from sparsedial.report.charts.drawn_figure import Figure
from sparsedial.report.charts.rendering import to_svg
from sparsedial.report.csv_and_json import to_csv, to_json, write_file
from sparsedial.report.output_folder import check_no_foreign_files
from sparsedial.report.publication.catalog import PublicationFigures
from sparsedial.suggestions import describe_unknown

INDEX_NAME = "figures.json"
COMPARISON_NAME = "reference.csv"
SCHEMA = 1
"""Version of ``figures.json``."""

PNG_SCALE = 4
DEFAULT_FORMATS = ("svg", "pdf")

_ENCODERS: Mapping[str, Callable[[str], bytes]] = {
    "svg": lambda svg: svg.encode(),
    "pdf": lambda svg: bytes(vl_convert.svg_to_pdf(svg)),
    "png": lambda svg: bytes(vl_convert.svg_to_png(svg, scale=PNG_SCALE)),
}
FORMATS = tuple(_ENCODERS)


def check_formats(formats: Sequence[str]) -> None:
    """Check names of file formats.

    Args:
        formats: The names.

    Raises:
        SpecError: A name is unknown, or there is none.
    """
    if not formats:
        raise SpecError(f"no format given: expected some of {', '.join(FORMATS)}")
    for name in formats:
        if name not in FORMATS:
            raise SpecError(describe_unknown("format", name, FORMATS))


def export_figures(
    figures: PublicationFigures,
    folder: Path,
    formats: Sequence[str] = DEFAULT_FORMATS,
    comparison: pd.DataFrame | None = None,
) -> list[Path]:
    """Write figures to a directory.

    The directory also gets ``figures.json`` with the caption of each figure and the reasons for missing figures, and
    ``reference.csv`` if there is a comparison with references. Files of an earlier export are replaced.

    Args:
        figures: The figures.
        folder: The directory. It is created if it is missing.
        formats: Some of `FORMATS`.
        comparison: Table of `compare_with_references`.

    Returns:
        Paths of the files of the figures, and of the comparison.

    Raises:
        SpecError: A format is unknown.
        StorageError: A file cannot be written, or would replace a file that is not of an earlier export.
    """
    check_formats(formats)
    names = []
    for figure in figures.figures:
        names += _file_names(figure, formats)
    if comparison is not None:
        names.append(COMPARISON_NAME)
    if not _holds_export(folder):
        check_no_foreign_files(folder, [*names, INDEX_NAME])
    entries = []
    for figure in figures.figures:
        svg = to_svg(figure.chart)
        files = _file_names(figure, formats)
        for suffix, file in zip(formats, files, strict=True):
            write_file(folder / file, _ENCODERS[suffix](svg))
        entries.append({"name": figure.name, "caption": figure.description, "files": files})
    if comparison is not None:
        write_file(folder / COMPARISON_NAME, to_csv(comparison))
    index = {"schema": SCHEMA, "figures": entries, "not_drawn": figures.not_drawn}
    write_file(folder / INDEX_NAME, to_json(index))
    return list(map(folder.joinpath, names))


def _file_names(figure: Figure, formats: Sequence[str]) -> list[str]:
    return [f"{figure.name}.{suffix}" for suffix in formats]


def _holds_export(folder: Path) -> bool:
    """Return True if the directory holds the ``figures.json`` of an earlier export."""
    try:
        index = json.loads((folder / INDEX_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(index, dict) and {"schema", "figures", "not_drawn"} <= index.keys()
