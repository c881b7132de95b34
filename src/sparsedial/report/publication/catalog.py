"""Selection of the figures for publications: which can be drawn from some results, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

import pandas as pd

from sparsedial.analysis.labels import is_average
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows, unique_in_order
from sparsedial.analysis.row_selection import (
    drop_group_members,
    headline_rows,
    rows_with_estimate_or_interval,
    rows_with_numbers,
)
from sparsedial.report.charts.common import Row, distinct_values
from sparsedial.report.charts.drawn_figure import Figure
from sparsedial.report.charts.file_names import name_with_number
from sparsedial.report.formatting import sanitize_text
from sparsedial.report.publication.denoising import draw_step_overlap, draw_step_sparsity
from sparsedial.report.publication.experts import draw_experts
from sparsedial.report.publication.generation import add_scores, draw_generation
from sparsedial.report.publication.model_sizes import draw_sizes
from sparsedial.report.publication.reference_rows import References
from sparsedial.report.publication.retention import draw_retention_by_site, draw_retention_by_size
from sparsedial.report.publication.sites import draw_sites
from sparsedial.study.requirement_text import describe_required
from sparsedial.tasks.task_names import AVERAGE

RETENTION = "retention-by-site"
RETENTION_BY_SIZE = "retention-by-size"
SIZE = "critical-over-size"
SITES = "sites"
EXPERTS = "experts"
STEP_SPARSITY = "denoising-sparsity"
STEP_OVERLAP = "denoising-overlap"
GENERATION = "generation"
KINDS = (RETENTION, RETENTION_BY_SIZE, SIZE, SITES, EXPERTS, STEP_SPARSITY, STEP_OVERLAP, GENERATION)
"""Kinds of figures, in the order in which they are written."""

CURVE_COLUMNS = ("family", "parameters", "group")
"""Columns of the table of critical sparsities that tell which points are drawn together."""

NEAREST_POINT = "at the measured p nearest to the critical sparsity of the site"
INTERVALS = "Bars are 95% intervals."


@dataclass(frozen=True)
class PublicationFigures:
    """The figures that can be drawn from some results.

    Attributes:
        figures: The figures. ``description`` is a caption.
        not_drawn: Why each of the other kinds of figures cannot be drawn, by its kind.
    """

    figures: tuple[Figure, ...]
    not_drawn: dict[str, str]


def make_publication_figures(results: Results, references: References) -> PublicationFigures:
    """Draw all figures that the results allow.

    Args:
        results: The results of one or several studies.
        references: Values that are drawn with open marks.

    Returns:
        The figures, and the reasons for those that are missing.
    """
    makers: dict[str, Callable[[Results, References], Iterator[Figure]]] = {
        RETENTION: _make_retention,
        RETENTION_BY_SIZE: _make_retention_by_size,
        SIZE: _make_sizes,
        SITES: _make_sites,
        EXPERTS: _make_experts,
        STEP_SPARSITY: _make_step_sparsity,
        STEP_OVERLAP: _make_step_overlap,
        GENERATION: _make_generation,
    }
    figures: list[Figure] = []
    not_drawn = {}
    for kind in KINDS:
        drawn = list(makers[kind](results, references))
        figures += drawn
        if not drawn:
            not_drawn[kind] = _explain_missing(kind, results)
    return PublicationFigures(tuple(figures), not_drawn)


def make_reference_figures(results: Results) -> list[Figure]:
    """Draw the figures that show critical sparsities beside those of references.

    Args:
        results: The results, with their comparison with references.

    Returns:
        The figures. Empty without a comparison.
    """
    if results.reference.empty:
        return []
    references = References(comparison=results.reference)
    return [*_make_sizes(results, references), *_make_sites(results, references)]


def _explain_missing(kind: str, results: Results) -> str:
    """Return why a kind of figure cannot be drawn, and what it takes."""
    curves = "no measured points"
    if not results.points.empty:
        curves = "no family has models of several sizes with points on the same task; measure more models of a family"
    tables = {
        RETENTION: "no measured points (points.csv)",
        RETENTION_BY_SIZE: curves,
        SIZE: "no task was measured on models of several sizes; measure more models",
        SITES: "no critical sparsities: every dense score is at chance",
        EXPERTS: "no sparsity by expert (experts.csv); measure a mixture of experts",
        STEP_SPARSITY: "no sparsity by denoising step (steps.csv); run the task denoising on a diffusion model",
        STEP_OVERLAP: "no overlap of kept sets (step_overlap.csv); run the task denoising on a diffusion model",
        GENERATION: "no lengths of generated texts (generated.csv) with points; run a task that generates text",
    }
    return tables[kind]


def _make_retention(results: Results, references: References) -> Iterator[Figure]:
    points = drop_group_members(rows_with_numbers(_with_curve_columns(results), "sparsity", "retention"))
    if points.empty:
        return
    for name, model, rows in _split(points, RETENTION):
        tasks = unique_in_order(rows["task"])
        known = references.points(model, tasks)
        caption = (
            f"Retention of {sanitize_text(model)} over sparsity, by site and task. The dashed line marks "
            f"{describe_required(results.retain)}. {INTERVALS}"
        )
        chart = draw_retention_by_site(rows, known, results.retain)
        yield Figure(name, caption + _reference_note(known), chart)


def _make_retention_by_size(results: Results, references: References) -> Iterator[Figure]:
    del references  # their points are drawn in the figures by site
    points = rows_with_numbers(_with_curve_columns(results), "sparsity", "retention", "parameters")
    if points.empty:
        return
    index = 0
    for family in unique_in_order(points["family"]):
        members = headline_rows(points[points["family"].astype(str) == family])
        for task in unique_in_order(members["task"]):
            rows = members[members["task"] == task].sort_values("parameters", kind="stable")
            models = list(map(sanitize_text, unique_in_order(rows["model"])))
            if len(models) < 2:
                continue
            index += 1
            caption = (
                f"Retention over sparsity for the models of {sanitize_text(family)}, {_describe_task(task)}, by site. "
                f"The dashed line marks {describe_required(results.retain)}. {INTERVALS}"
            )
            chart = draw_retention_by_size(rows, models, results.retain)
            yield Figure(name_with_number(RETENTION_BY_SIZE, index, f"{family} {task}"), caption, chart)


def _make_sizes(results: Results, references: References) -> Iterator[Figure]:
    critical = rows_with_numbers(_drawable_critical(results), "parameters")
    if critical.empty:
        return
    index = 0
    for task in unique_in_order(critical["task"]):
        rows = critical[critical["task"] == task]
        known = references.critical_rows([task])
        sizes = {*rows["parameters"], *map(itemgetter("parameters"), known)} - {None}
        if len(sizes) < 2:
            continue
        index += 1
        caption = (
            f"Critical sparsity over the number of parameters, {_describe_task(task)}, by site and family: "
            f"{_define_critical(results)} {INTERVALS} An arrow marks a lower bound."
        )
        note = _reference_note(known)
        yield Figure(name_with_number(SIZE, index, task), caption + note, draw_sizes(rows, known))


def _make_sites(results: Results, references: References) -> Iterator[Figure]:
    critical = _drawable_critical(results)
    if critical.empty:
        return
    known = references.critical_rows(unique_in_order(critical["task"]))
    caption = (
        f"Critical sparsity of each site: {_define_critical(results)} {INTERVALS} An arrow marks a lower bound. A bar "
        "without a point is a curve whose points are too far apart for an estimate."
    )
    yield Figure(SITES, caption + _reference_note(known), draw_sites(critical, known))


def _make_experts(results: Results, references: References) -> Iterator[Figure]:
    del references  # no reference holds sparsities of experts
    known_rows = rows_with_numbers(results.experts, "layer", "sparsity")
    for name, model, task, rows in _split_by_task(known_rows, EXPERTS):
        caption = (
            f"Minimum, mean and maximum of the sparsity over the experts of each layer of {sanitize_text(model)}, "
            f"{_describe_task(task)}, {NEAREST_POINT}. Experts that received no token are left out."
        )
        yield Figure(name, caption, draw_experts(rows))


def _make_step_sparsity(results: Results, references: References) -> Iterator[Figure]:
    del references  # no reference holds sparsities of steps
    known_rows = rows_with_numbers(results.steps, "step", "layer", "sparsity")
    for name, model, task, rows in _split_by_task(known_rows, STEP_SPARSITY):
        caption = (
            f"Sparsity of {sanitize_text(model)} over the denoising steps, {_describe_task(task)}, {NEAREST_POINT}: "
            "mean over the layers, and "
            "the layers with the lowest and the highest sparsity."
        )
        yield Figure(name, caption, draw_step_sparsity(rows))


def _make_step_overlap(results: Results, references: References) -> Iterator[Figure]:
    known_rows = rows_with_numbers(results.step_overlap, "step", "overlap_previous")
    for name, model, task, rows in _split_by_task(known_rows, STEP_OVERLAP):
        known = references.overlap_ranges(model)
        caption = (
            f"Overlap of the kept sets of {sanitize_text(model)} along the denoising steps, {_describe_task(task)}, "
            f"{NEAREST_POINT}: mean "
            "Jaccard index over tokens and layers."
        )
        note = _reference_note(known)
        yield Figure(name, caption + note, draw_step_overlap(rows, known))


def _make_generation(results: Results, references: References) -> Iterator[Figure]:
    del references  # no reference holds lengths of texts
    if results.generated.empty or results.points.empty:
        return
    for name, model, rows in _split(add_scores(results.generated, results.points), GENERATION):
        caption = (
            f"Score, mean number of generated tokens, and share of the texts that were cut off at the limit of tokens, "
            f"over sparsity, for {sanitize_text(model)}."
        )
        yield Figure(name, caption, draw_generation(rows))


def _with_curve_columns(results: Results) -> pd.DataFrame:
    """Return the points, with the columns of their curves in the table of critical sparsities."""
    points = results.points
    if points.empty:
        return points
    curves = list(zip(points["model"].astype(str), points["task"].astype(str), strict=True))
    for column in CURVE_COLUMNS:
        if column in results.critical:
            values = {}
            for row in results.critical.to_dict("records"):
                values[str(row["model"]), str(row["task"])] = row[column]
            points = points.assign(**{column: pd.Series(map(values.get, curves), index=points.index, dtype=object)})
    return points


def _drawable_critical(results: Results) -> pd.DataFrame:
    if results.critical.empty:
        return results.critical
    return headline_rows(rows_with_estimate_or_interval(sort_rows(results.critical)))


def _split(frame: pd.DataFrame, kind: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the name of the figure, the model and the rows of each model."""
    if frame.empty:
        return
    models = unique_in_order(frame["model"])
    for index, model in enumerate(models, start=1):
        name = kind if len(models) == 1 else name_with_number(kind, index, model)
        yield name, model, frame[frame["model"].astype(str) == model]


def _split_by_task(frame: pd.DataFrame, kind: str) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Yield the name of the figure, the model, the task and the rows of each model and task."""
    if frame.empty:
        return
    curves = frame[["model", "task"]].astype(str).drop_duplicates()
    for index, (model, task) in enumerate(curves.itertuples(index=False), start=1):
        name = kind if len(curves) == 1 else name_with_number(kind, index, f"{model} {task}")
        rows = frame[(frame["model"].astype(str) == model) & (frame["task"].astype(str) == task)]
        yield name, model, task, rows


def _describe_task(task: str) -> str:
    if task == AVERAGE:
        return "average over tasks"
    if is_average(task):
        return sanitize_text(task)
    return f"task {sanitize_text(task)}"


def _define_critical(results: Results) -> str:
    return f"the highest sparsity that keeps {describe_required(results.retain)}."


def _reference_note(rows: Sequence[Row]) -> str:
    """Return the sentence of a caption that names the references of some rows. Empty without rows."""
    names = distinct_values(rows, "reference")
    if not names:
        return ""
    return f" Open marks are values of {', '.join(names)}."
