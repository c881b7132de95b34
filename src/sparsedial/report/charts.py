"""Which figures a report has: each only where it says something, and what would be crowded drawn model by model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import altair as alt
import pandas as pd

from sparsedial.report import across, along, figures, within
from sparsedial.report.words import leading, ordered, plain, sort_rows, with_numbers
from sparsedial.study.naming import is_average

if TYPE_CHECKING:
    from sparsedial.study.results import Results

Figure = tuple[str, str, alt.TopLevelMixin]
"""Its name (of the files), its text alternative and the chart."""


def comparisons(results: Results) -> Iterator[Figure]:
    """Sites, models and tasks beside each other, each figure where there is something to compare."""
    retain = results.retain
    critical = with_numbers(sort_rows(results.critical), "value")
    if critical.empty:
        return
    about = "Critical sparsity of each site with its 95% interval; the table has the numbers."
    if critical["model"].nunique() == 1:
        yield "critical", about, figures.critical_sparsities(critical, retain)
    else:
        main = leading(critical)
        yield "critical", about, across.by_model(main, retain)
        sized = with_numbers(main, "parameters")
        tasks = ordered(sized["task"])
        for index, task in enumerate(tasks, start=1):
            rows = sized[sized["task"] == task]
            if rows["parameters"].nunique() > 1:
                of = "on average over tasks" if is_average(task) else f"on {plain(task)}"
                name = "size" if len(tasks) == 1 else f"size-{index}-{_slug(task)}".rstrip("-")
                yield name, f"Critical sparsity {of} over the number of parameters.", across.by_size(rows, retain)
    if critical["task"].nunique() > 1:
        yield "tasks", "Critical sparsity of each task with its 95% interval.", across.by_task(critical, retain)


def details(results: Results) -> Iterator[Figure]:
    """What is behind the critical sparsities, model by model: curves, layers, experts, steps."""
    retain = results.retain
    critical = with_numbers(sort_rows(results.critical), "value")
    for name, of, points in _by_model("retention", results.points, ("sparsity", "retention")):
        about = f"Share of the dense score that is retained{of}, as more activations are dropped, for each site."
        yield name, about, figures.retention(points, _of_models(critical, points), retain)
    for name, of, layers in _by_model("layers", results.layers, ("layer", "sparsity")):
        about = f"Sparsity of each layer{of}, at the measured p nearest the critical sparsity of the site."
        yield name, about, within.layer_profile(layers)
    for name, of, experts in _by_model("experts", results.experts, ("layer", "sparsity")):
        every = results.experts[results.experts["model"].isin(experts["model"])]
        about = f"Least, mean and greatest sparsity over the experts of each layer{of}."
        yield name, about, within.expert_band(every)
        yield f"{name}-histogram", f"How many experts{of} have which sparsity.", within.expert_histogram(every)
        if not with_numbers(experts, "share").empty:
            about = f"Sparsity of each expert{of} over its share of the layer's tokens."
            yield f"{name}-routing", about, within.expert_routing(every)
    for name, of, steps in _by_model("steps", results.steps, ("step", "layer", "sparsity")):
        yield name, f"Sparsity of each layer{of} at each denoising step.", within.step_map(steps)
    for name, of, likeness in _by_model("overlap", results.likeness, ("step", "consecutive")):
        about = f"Jaccard index{of} of each step's kept sets with the step before's and with the first's."
        yield name, about, along.overlap(likeness)
    for name, of, likeness in _by_model("revealed", results.likeness, ("step", "sparsity")):
        yield name, f"Sparsity of masked and of revealed tokens{of} over the steps.", along.revealed(likeness)


def _by_model(name: str, frame: pd.DataFrame, needed: tuple[str, ...]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """File name, `` of MODEL`` (empty for the only one) and rows of each model that has something to draw."""
    drawable = with_numbers(frame, *needed)
    if drawable.empty:
        return
    models = ordered(drawable["model"])
    for index, model in enumerate(models, start=1):
        rows = drawable[drawable["model"].astype(str) == model]
        yield (
            (name, "", rows)
            if len(models) == 1
            else (f"{name}-{index}-{_slug(model)}".rstrip("-"), f" of {plain(model)}", rows)
        )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]


def _of_models(critical: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    return critical if critical.empty else critical[critical["model"].isin(points["model"])]
