"""Selection of the figures of a report.

Figures without data are left out. Detailed figures are drawn for each model separately.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import altair as alt
import pandas as pd

from sparsedial.analysis.labels import is_average
from sparsedial.analysis.results import Results
from sparsedial.analysis.row_order import sort_rows, unique_in_order
from sparsedial.analysis.row_selection import headline_rows, rows_with_numbers
from sparsedial.report.charts.denoising_steps import draw_overlap, draw_token_states
from sparsedial.report.charts.experts import draw_expert_band, draw_expert_histogram, draw_expert_routing
from sparsedial.report.charts.layer_charts import draw_layer_profile, draw_step_map
from sparsedial.report.charts.model_and_task_comparison import draw_models, draw_tasks
from sparsedial.report.charts.model_size import draw_model_sizes
from sparsedial.report.charts.retention import draw_retention
from sparsedial.report.charts.site_comparison import draw_sites
from sparsedial.report.formatting import sanitize_text

MAX_SLUG_LENGTH = 60


@dataclass(frozen=True)
class Figure:
    """A chart of the report.

    Attributes:
        name: Name of its files, without a suffix.
        description: Text alternative for readers who cannot see it.
        chart: The chart.
    """

    name: str
    description: str
    chart: alt.TopLevelMixin


@dataclass(frozen=True)
class _ModelRows:
    """The rows of one model that can be drawn.

    Attributes:
        name: Name of the figure's files.
        suffix: Text for its description: `` of MODEL``. Empty if there is only one model.
        rows: The rows.
    """

    name: str
    suffix: str
    rows: pd.DataFrame


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
    description = "Critical sparsity of each site with its 95% interval. The table has the numbers."
    if critical["model"].nunique() == 1:
        yield Figure("critical", description, draw_sites(critical, results.retain))
    else:
        headline = headline_rows(critical)
        yield Figure("critical", description, draw_models(headline, results.retain))
        yield from _make_size_figures(headline, results.retain)
    if critical["task"].nunique() > 1:
        description = "Critical sparsity of each task with its 95% interval."
        yield Figure("tasks", description, draw_tasks(critical, results.retain))


def make_detail_figures(results: Results) -> Iterator[Figure]:
    """Draw the detailed figures of each model: retention curves, layers, experts and denoising steps.

    Args:
        results: The results of one or several studies.

    Yields:
        Figure: The figures, in the order of the report.
    """
    critical = rows_with_numbers(sort_rows(results.critical), "sparsity")
    for model in _split_by_model("retention", results.points, "sparsity", "retention"):
        description = f"Retention{model.suffix} over sparsity, for each site."
        marks = critical
        if not critical.empty:
            marks = critical[critical["model"].isin(model.rows["model"])]
        yield Figure(model.name, description, draw_retention(model.rows, marks, results.retain))
    for model in _split_by_model("layers", results.layers, "layer", "sparsity"):
        description = (
            f"Sparsity of each layer{model.suffix}, at the measured p nearest to the critical sparsity of the site."
        )
        yield Figure(model.name, description, draw_layer_profile(model.rows))
    yield from _make_expert_figures(results.experts)
    for model in _split_by_model("steps", results.steps, "step", "layer", "sparsity"):
        description = f"Sparsity of each layer{model.suffix} at each denoising step."
        yield Figure(model.name, description, draw_step_map(model.rows))
    for model in _split_by_model("overlap", results.step_overlap, "step", "overlap_previous"):
        description = f"Jaccard index of the kept sets{model.suffix} with those of the previous and of the first step."
        yield Figure(model.name, description, draw_overlap(model.rows))
    for model in _split_by_model("revealed", results.step_overlap, "step", "sparsity"):
        description = f"Sparsity of masked and of revealed tokens{model.suffix} over the denoising steps."
        yield Figure(model.name, description, draw_token_states(model.rows))


def _make_size_figures(headline: pd.DataFrame, retain: float) -> Iterator[Figure]:
    """Draw one figure per task that was measured on models of several sizes."""
    sized = rows_with_numbers(headline, "parameters")
    tasks = unique_in_order(sized["task"])
    for index, task in enumerate(tasks, start=1):
        rows = sized[sized["task"] == task]
        if rows["parameters"].nunique() < 2:
            continue
        scope = "on average over tasks" if is_average(task) else f"on {sanitize_text(task)}"
        name = "size" if len(tasks) == 1 else name_with_number("size", index, task)
        description = f"Critical sparsity {scope} over the number of parameters."
        yield Figure(name, description, draw_model_sizes(rows, retain))


def _make_expert_figures(experts: pd.DataFrame) -> Iterator[Figure]:
    for model in _split_by_model("experts", experts, "layer", "sparsity"):
        # Experts without tokens are included, because the figures state their number.
        rows = experts[experts["model"].isin(model.rows["model"])]
        description = f"Lowest, mean and highest sparsity over the experts of each layer{model.suffix}."
        yield Figure(model.name, description, draw_expert_band(rows))
        description = f"Number of experts{model.suffix} by their sparsity."
        yield Figure(f"{model.name}-histogram", description, draw_expert_histogram(rows))
        if not rows_with_numbers(model.rows, "share").empty:
            description = f"Sparsity of each expert{model.suffix} over its share of the layer's tokens."
            yield Figure(f"{model.name}-routing", description, draw_expert_routing(rows))


def _split_by_model(name: str, frame: pd.DataFrame, *columns: str) -> Iterator[_ModelRows]:
    """Yield the rows of each model that have numbers in these columns."""
    drawable = rows_with_numbers(frame, *columns)
    if drawable.empty:
        return
    models = unique_in_order(drawable["model"])
    if len(models) == 1:
        yield _ModelRows(name, "", drawable)
        return
    for index, model in enumerate(models, start=1):
        rows = drawable[drawable["model"].astype(str) == model]
        yield _ModelRows(name_with_number(name, index, model), f" of {sanitize_text(model)}", rows)


def name_with_number(name: str, index: int, subject: str) -> str:
    """Return the name of one of several figures of a kind, without a suffix. It is safe as the name of a file.

    Args:
        name: Name of the kind of figures.
        index: Number of the figure, from 1.
        subject: What the figure is about, such as a model.

    Returns:
        The name, the number and the subject in lower case, joined by hyphens.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", subject.lower()).strip("-")[:MAX_SLUG_LENGTH]
    return f"{name}-{index}-{slug}".rstrip("-")
