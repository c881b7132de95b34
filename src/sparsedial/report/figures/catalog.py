"""Selection of the figures of a page.

Figures without data are left out. Detailed figures are drawn for each model separately.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from sparsedial.analysis.pair_findings import find_pairs
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows, unique_in_order
from sparsedial.analysis.row_selection import headline_rows, rows_with_numbers
from sparsedial.report.charts.file_names import name_with_number
from sparsedial.report.figures.critical_figures import (
    make_difference_figure,
    make_model_figure,
    make_site_figure,
    make_size_figure,
    make_task_figure,
)
from sparsedial.report.figures.expert_figures import make_band_figure, make_histogram_figure, make_routing_figure
from sparsedial.report.figures.layer_figures import (
    make_layer_figure,
    make_overlap_figure,
    make_state_figure,
    make_step_figure,
)
from sparsedial.report.figures.profile_data import Profiles
from sparsedial.report.figures.retention_figures import make_retention_figure
from sparsedial.report.plots.figure import Figure

MAX_COMPARED = 6
"""Number of models, or of rules, up to which their curves are drawn in one plot."""

MAX_DRAWN_PAIRS = 6
"""Number of pairs up to which their differences are drawn. The table lists more."""


@dataclass(frozen=True)
class ModelFigures:
    """The detailed figures of one model.

    Attributes:
        model: Display name of the model.
        figures: The figures, in the order of the page.
    """

    model: str
    figures: tuple[Figure, ...]


def make_comparison_figures(results: Results) -> Iterator[Figure]:
    """Draw the figures that compare sites, models and tasks.

    Args:
        results: The results of one or several studies.

    Yields:
        Figure: The figures, in the order of the report.
    """
    critical = rows_with_numbers(sort_rows(results.critical), "sparsity")
    if critical.empty:
        return
    if critical["model"].nunique() == 1:
        yield make_site_figure(critical, results.retain)
    else:
        headline = headline_rows(critical)
        if not headline.empty:  # an average without an estimate takes the place of its tasks
            yield make_model_figure(headline, results.retain)
        yield from _make_size_figures(headline, results.retain)
    if critical["task"].nunique() > 1:
        yield make_task_figure(critical, results.retain)


def make_pair_figures(results: Results) -> Iterator[Figure]:
    """Draw the figures that put models, or rules, side by side: their differences and their curves.

    Args:
        results: The results of one or several studies.

    Yields:
        Figure: The figures, in the order of the report.
    """
    for index, group in enumerate(find_pairs(results), start=1):
        if len(group.pairs) <= MAX_DRAWN_PAIRS:
            yield make_difference_figure(name_with_number("differences", index, f"{group.kind}s"), group)
    points = rows_with_numbers(results.points, "sparsity", "retention")
    if points.empty:
        return
    critical = rows_with_numbers(sort_rows(results.critical), "sparsity")
    for subject, rows, marks in (
        ("model", headline_rows(points), headline_rows(critical)),
        ("rule", points, critical),
    ):
        if 2 <= rows[subject].nunique() <= MAX_COMPARED:
            yield make_retention_figure(f"retention-by-{subject}", rows, marks, results.retain, subject)


def make_model_figures(results: Results, profiles: Profiles) -> list[ModelFigures]:
    """Draw the detailed figures of each model: retention curves, layers, experts and denoising steps.

    Args:
        results: The results of one or several studies.
        profiles: The numbers of layers and experts at every measured p.

    Returns:
        One entry per model that has figures.
    """
    by_model: dict[str, list[Figure]] = {}
    for model, figure in _make_model_figures(results, profiles):
        by_model.setdefault(model, []).append(figure)
    order: list[str] = []
    if not results.critical.empty:
        order = unique_in_order(sort_rows(results.critical)["model"])
    names = unique_in_order(by_model, order)
    return [ModelFigures(name, tuple(by_model[name])) for name in names]


def _make_model_figures(results: Results, profiles: Profiles) -> Iterator[tuple[str, Figure]]:
    critical = rows_with_numbers(sort_rows(results.critical), "sparsity")
    for model, name, rows in _split_by_model("retention", results.points, "sparsity", "retention"):
        marks = critical
        if not critical.empty:
            marks = critical[critical["model"].isin(rows["model"])]
        yield model, make_retention_figure(name, rows, marks, results.retain)
    for model, name, rows in _split_by_model("layers", results.layers, "layer", "sparsity"):
        yield model, make_layer_figure(name, rows, profiles.layers)
    for model, name, drawable in _split_by_model("experts", results.experts, "layer", "sparsity"):
        # Experts without tokens are included, because the figures state their number.
        rows = results.experts[results.experts["model"].isin(drawable["model"])]
        yield model, make_band_figure(name, rows, profiles.experts)
        yield model, make_histogram_figure(f"{name}-histogram", rows, profiles.experts)
        if not rows_with_numbers(drawable, "share").empty:
            yield model, make_routing_figure(f"{name}-routing", rows)
    for model, name, rows in _split_by_model("steps", results.steps, "step", "layer", "sparsity"):
        yield model, make_step_figure(name, rows)
    for model, name, rows in _split_by_model("overlap", results.step_overlap, "step", "overlap_previous"):
        yield model, make_overlap_figure(name, rows)
    for model, name, rows in _split_by_model("revealed", results.step_overlap, "step", "sparsity"):
        if (rows["state"] != "all").any():
            yield model, make_state_figure(name, rows)


def _make_size_figures(headline: pd.DataFrame, retain: float) -> Iterator[Figure]:
    """Draw one figure per task that was measured on models of several sizes."""
    sized = rows_with_numbers(headline, "parameters")
    tasks = unique_in_order(sized["task"])
    for index, task in enumerate(tasks, start=1):
        rows = sized[sized["task"] == task]
        if rows["parameters"].nunique() < 2:
            continue
        name = name_with_number("size", index, task)
        if len(tasks) == 1:
            name = "size"
        yield make_size_figure(name, rows, retain)


def _split_by_model(name: str, frame: pd.DataFrame, *columns: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the name of each model, of its figure, and its rows that have numbers in these columns."""
    drawable = rows_with_numbers(frame, *columns)
    if drawable.empty:
        return
    models = unique_in_order(drawable["model"])
    if len(models) == 1:
        yield models[0], name, drawable
        return
    for index, model in enumerate(models, start=1):
        yield model, name_with_number(name, index, model), drawable[drawable["model"].astype(str) == model]
