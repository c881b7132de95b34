"""How often do the intervals of critical sparsity contain the truth, and how wide are they?

    python -m benchmarks.bench_coverage [--quick] [--repetitions 100]

The scores of models whose curve is known are drawn again and again, and measured as a study measures them: on the grid
of the paper (24 values of p between 0 and 1), on 24 points that are 4 points of sparsity apart, by the adaptive search,
or by a search that starts with 64 examples and adds examples where the tests do not decide, as `--precision` does. The
table has one line per number of examples, tasks, kind of score and choice of points, over eight shapes of curves. Then
the per-example scores of a real model of the zoo are resampled. Then come differences of two curves and trends over
model size. The last line is JSON, also kept in benchmarks/results.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import describe_machine, package_versions, save_result
from benchmarks.simulated_scores import (
    BINARY,
    SHAPES,
    SMOOTH,
    Retention,
    SimulatedTask,
    draw_tasks,
    power,
    top_p_sparsity,
    top_p_value,
    true_critical_sparsity,
)
from sparsedial.analysis.retention_curves import DisplayNames, read_curves
from sparsedial.analysis.trial_set import read_studies
from sparsedial.curves import (
    RETAIN,
    Curve,
    average_at_each_p,
    critical_difference,
    critical_sparsity,
    fit_size_trend,
    make_curve,
)
from sparsedial.curves.crossings import find_crossings
from sparsedial.curves.curve import curve_from_scores
from sparsedial.rules import Rule
from sparsedial.study.adaptive_search import SearchStep
from sparsedial.study.example_growth import GrowingSearch
from sparsedial.study.progress_listener import NullListener
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec
from sparsedial.study.value_grids import find_value_grid
from sparsedial.tasks.example_blocks import block_ends
from sparsedial.tasks.spec import TaskSpec

REQUIRED_COVERAGE = 0.93
WIDTH_TOLERANCE = 1.15
MAX_BIAS = 0.015
REPETITIONS = 100
QUICK_REPETITIONS = 20
QUICK_EXAMPLES = (64,)
PAPER_GRID = find_value_grid("paper")[1:-1]  # values of p, without the dense model and p = 0
EVEN_GRID = tuple((0.04 * np.arange(1, 25)).round(3).tolist())  # sparsities
# Few points, shifted from model to model, because models differ in their sparsity at the same p.
COARSE_GRID = (0.1, 0.3, 0.5, 0.7)
COARSE_SHIFTS = (0.0, 0.1, 0.05, 0.15)
ROUNDING = 1e-9
CURVES = "curves"
DIFFERENCES = "differences"
TRENDS = "trends"
REAL = "real scores"
PARTS = (CURVES, DIFFERENCES, TRENDS, REAL)
REAL_MODEL = "zoo:dense-0.4m"
REAL_SITES = ("input", "intermediate")
# Number of texts (the zoo has 384) and values of p.
REAL_STUDY = (384, (0.995, 0.99, 0.98, 0.97, 0.96, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.5))
QUICK_STUDY = (16, (0.97, 0.9, 0.7))
PAPER_NAME = "paper"
EVEN_NAME = "even"
SEARCH_NAME = "search"
ADDED_NAME = "added"
COARSE_NAME = "coarse"
EXAMPLES = (64, 200, 600, 2000)
TASKS = (1, 3)
PRECISION = 0.015
# Median widths with one task that the procedure was expected to have, by kind of score and number of examples.
EXPECTED_WIDTHS = {
    BINARY: {64: 0.56, 200: 0.54, 600: 0.46, 2000: 0.36},
    SMOOTH: {64: 0.30, 200: 0.16, 600: 0.09, 2000: 0.06},
}
DIFFERENCE_SHAPES = ("steep", "middle", "late", "dip that recovers", "late knee")
SHARED = (0.0, 0.5, 0.9)
# Sparsity at which models of 1, 3, 10 and 30 units of size have lost 1%, by the name of the family.
FAMILIES = {
    "flat": (0.35, 0.35, 0.35, 0.35),
    "rising": (0.2, 0.3, 0.4, 0.5),
    "falling": (0.5, 0.4, 0.3, 0.2),
    "rising late": (0.25, 0.25, 0.25, 0.6),
    "two models": (0.3, 0.45),
}
SIZES = (1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Cell:
    """One setting that is drawn repeatedly.

    Attributes:
        kind: ``0/1`` or ``smooth``.
        examples: Number of examples of each task.
        tasks: Number of tasks that are averaged.
        points: ``paper``, ``even`` or ``coarse`` for a grid, ``search`` with all examples, or ``added`` for a search
            that adds examples.
        name: Name of the curve, pair of curves or family.
        shared: Share of the variance of an example's tolerance that several models have in common.
    """

    kind: str
    examples: int
    tasks: int
    points: str
    name: str
    shared: float = 0.0


@dataclass(frozen=True)
class Summary:
    """What was found in one cell.

    Attributes:
        cell: The setting.
        coverage: Share of the intervals that contain the truth.
        width: Median width of the intervals.
        bias: Mean of the point estimate minus the truth. None if it is not judged.
        measured: Mean number of measured points.
        decided: Share of the intervals that exclude 0. Only for differences and trends.
        wrong: Share of the intervals that exclude 0 on the wrong side, or although the truth is 0.
    """

    cell: Cell
    coverage: float
    width: float
    bias: float | None = None
    measured: float | None = None
    decided: float | None = None
    wrong: float | None = None


def measure_curve(tasks: Sequence[SimulatedTask], points: str, model: int = 0) -> Curve:
    """Measure the average of some tasks on a grid, or by an adaptive search. The coarse grid depends on the model."""
    examples = len(tasks[0].dense)
    if points == PAPER_NAME:
        return _curve(tasks, dict.fromkeys(PAPER_GRID, examples))
    if points == EVEN_NAME:
        return _curve(tasks, {top_p_value(sparsity): examples for sparsity in EVEN_GRID})
    if points == COARSE_NAME:
        return _curve(tasks, {top_p_value(sparsity + COARSE_SHIFTS[model]): examples for sparsity in COARSE_GRID})
    ends = block_ends(examples)
    if points == SEARCH_NAME:
        ends = [examples]
    search = GrowingSearch("top_p", RETAIN, PRECISION, len(ends) - 1)
    measured: dict[Rule, int] = {}
    curve = None
    while not isinstance(step := search.next_points(curve, measured), SearchStep):
        measured.update(step)
        curve = _curve(tasks, {rule.value: ends[extra] for rule, extra in measured.items()})
    assert curve is not None
    return curve


def _curve(tasks: Sequence[SimulatedTask], examples_at: Mapping[float, int]) -> Curve:
    """Return the average curve of some tasks.

    Args:
        tasks: The tasks.
        examples_at: For each p, the number of scored examples.
    """
    values = np.array(sorted(examples_at, reverse=True))
    sparsity = np.array([top_p_sparsity(value) for value in values])
    most = max(examples_at.values())
    curves = []
    for task in tasks:
        matrix = np.full((most, 1 + len(values)), np.nan)
        matrix[:, 0] = task.dense[:most]
        for column, value in enumerate(values, 1):
            scored = examples_at[value]
            matrix[:scored, column] = task.score(round(float(sparsity[column - 1]), 9))[:scored]
        curves.append(curve_from_scores(sparsity, values, matrix, higher_is_better=True))
    return average_at_each_p(curves)


def simulate_curves(cell: Cell, repetitions: int) -> Summary:
    """Draw one curve repeatedly and compare its interval with the truth."""
    truth = true_critical_sparsity(SHAPES[cell.name])
    covered = []
    widths = []
    errors = []
    measured = []
    for seed in range(repetitions):
        (tasks,) = draw_tasks([SHAPES[cell.name]], cell.kind, cell.examples, cell.tasks, seed)
        curve = measure_curve(tasks, cell.points)
        critical = critical_sparsity(curve)
        assert critical.low is not None and critical.high is not None
        covered.append(critical.low <= truth and (critical.right_censored or truth <= critical.high))
        widths.append(critical.high - critical.low)
        measured.append(len(curve.p))
        if critical.estimate is not None:
            errors.append(critical.estimate - truth)
    bias = float(np.mean(errors)) if errors else None
    return Summary(cell, float(np.mean(covered)), float(np.median(widths)), bias, float(np.mean(measured)))


def simulate_differences(cell: Cell, repetitions: int) -> Summary:
    """Draw two curves on the same examples repeatedly and compare the interval of their difference with the truth."""
    names = cell.name.split(" - ")
    shapes = [SHAPES[name] for name in names]
    truth = true_critical_sparsity(shapes[0]) - true_critical_sparsity(shapes[1])

    def interval(models: list[list[SimulatedTask]]) -> tuple[float, float]:
        first, second = (measure_curve(tasks, cell.points) for tasks in models)
        difference = critical_difference(first, second)
        assert difference.low is not None and difference.high is not None
        return difference.low, difference.high

    return _compare_intervals(cell, shapes, truth, repetitions, interval)


def simulate_trends(cell: Cell, repetitions: int) -> Summary:
    """Draw the models of a family repeatedly and compare the interval of their trend with the truth."""
    shapes = [power(value, 4) for value in FAMILIES[cell.name]]
    sizes = SIZES[: len(shapes)]
    truth = float(np.polyfit(np.log10(sizes), list(map(true_critical_sparsity, shapes)), 1)[0])

    def interval(models: list[list[SimulatedTask]]) -> tuple[float, float]:
        trend = fit_size_trend(sizes, [measure_curve(tasks, cell.points, model) for model, tasks in enumerate(models)])
        assert trend.low is not None and trend.high is not None
        return trend.low, trend.high

    return _compare_intervals(cell, shapes, 0.0 if abs(truth) < 1e-9 else truth, repetitions, interval)


def _compare_intervals(
    cell: Cell,
    shapes: Sequence[Retention],
    truth: float,
    repetitions: int,
    interval: Callable[[list[list[SimulatedTask]]], tuple[float, float]],
) -> Summary:
    covered = []
    widths = []
    decided = []
    wrong = []
    for seed in range(repetitions):
        low, high = interval(draw_tasks(shapes, cell.kind, cell.examples, cell.tasks, seed, cell.shared))
        covered.append(low - ROUNDING <= truth <= high + ROUNDING)
        widths.append(high - low)
        decided.append(low > 0 or high < 0)
        wrong.append((low > 0 and truth <= 0) or (high < 0 and truth >= 0))
    return Summary(
        cell,
        coverage=float(np.mean(covered)),
        width=float(np.median(widths)),
        decided=float(np.mean(decided)),
        wrong=float(np.mean(wrong)),
    )


def resample_real_curve(curve: Curve, cell: Cell, repetitions: int) -> Summary:
    """Draw examples of a measured curve with replacement, and compare their interval with the curve of all examples."""
    truth = float(find_crossings(curve.sparsity, curve.retention[None], RETAIN).highest[0])
    (matrix,) = curve.examples
    random = np.random.default_rng(0)
    covered = []
    widths = []
    errors = []
    for _ in range(repetitions):
        drawn = matrix[random.integers(len(matrix), size=cell.examples)]
        means = drawn.mean(0)
        critical = critical_sparsity(Curve(curve.sparsity, means[1:], float(means[0]), curve.p, (drawn,)))
        assert critical.low is not None and critical.high is not None
        covered.append(critical.low <= truth and (critical.right_censored or truth <= critical.high))
        widths.append(critical.high - critical.low)
        if critical.estimate is not None:
            errors.append(critical.estimate - truth)
    bias = float(np.mean(errors)) if errors else None
    return Summary(cell, float(np.mean(covered)), float(np.median(widths)), bias, len(curve.p))


def measure_real_curves(texts: int, values: Sequence[float]) -> dict[tuple[str, str], Curve]:
    """Measure a model of the zoo and return its curves by kind of score and site.

    The smooth scores are the shares of predicted tokens of each text. The scores of 0 or 1 say whether a text has at
    least the median share of the dense model.
    """
    spec = StudySpec(
        models=(REAL_MODEL,),
        sites=REAL_SITES,
        tasks=(TaskSpec("next_token"),),
        values=tuple(values),
        task_options={"limit": texts},
    )
    curves = {}
    with tempfile.TemporaryDirectory() as folder:
        trial_set = read_studies([run_study(spec, Path(folder), listener=NullListener())])
        measured, problems = read_curves(trial_set, DisplayNames.from_trials(trial_set.trials))
    if problems:
        raise RuntimeError(f"the curves of {REAL_MODEL} cannot be read: {problems}")
    for labelled in measured:
        curve = labelled.curve
        curves[SMOOTH, labelled.group.site] = curve
        (matrix,) = curve.examples
        above = (matrix >= np.median(matrix[:, 0])).astype(float)
        points = zip(curve.sparsity, above[:, 1:].T, curve.p, strict=True)
        curves[BINARY, labelled.group.site] = make_curve(list(points), dense=above[:, 0])
    return curves


def resample_real_curves(quick: bool, repetitions: int) -> list[Summary]:
    """Measure a model of the zoo and resample its per-example scores."""
    curves = measure_real_curves(*(QUICK_STUDY if quick else REAL_STUDY))
    summaries = []
    for (kind, site), curve in curves.items():
        for examples in QUICK_EXAMPLES if quick else EXAMPLES:
            cell = Cell(kind, examples, 1, PAPER_NAME, f"{REAL_MODEL}, {site}")
            summaries.append(resample_real_curve(curve, cell, repetitions))
    print_part(REAL, summaries)
    return summaries


def make_cells(quick: bool) -> dict[str, list[Cell]]:
    """Return the cells of each part of the benchmark."""
    examples = QUICK_EXAMPLES if quick else EXAMPLES
    kinds = (BINARY, SMOOTH)
    curves = []
    choices = (PAPER_NAME, EVEN_NAME, SEARCH_NAME, ADDED_NAME)
    for kind, n, tasks, points, name in itertools.product(kinds, examples, TASKS, choices, SHAPES):
        if points != ADDED_NAME or len(block_ends(n)) > 1:
            curves.append(Cell(kind, n, tasks, points, name))
    pairs = itertools.combinations_with_replacement(DIFFERENCE_SHAPES, 2)
    names = [" - ".join(pair) for pair in pairs]
    differences = [Cell(*cell) for cell in itertools.product(kinds, examples, (1,), (PAPER_NAME,), names, SHARED)]
    grids = (PAPER_NAME, COARSE_NAME)
    trends = [Cell(*cell) for cell in itertools.product(kinds, examples, (1,), grids, FAMILIES, SHARED)]
    return {CURVES: curves, DIFFERENCES: differences, TRENDS: trends}


def run_cells(cells: dict[str, list[Cell]], repetitions: int, workers: int) -> dict[str, list[Summary]]:
    """Run the simulated cells of each part in several processes."""
    simulations = {CURVES: simulate_curves, DIFFERENCES: simulate_differences, TRENDS: simulate_trends}
    results = {}
    with ProcessPoolExecutor(workers) as pool:
        for part in cells:
            simulate = simulations[part]
            # Differences and trends have many more cells, and several curves in each repetition.
            run = partial(simulate, repetitions=repetitions if part == CURVES else repetitions // 2)
            results[part] = list(pool.map(run, cells[part], chunksize=4))
            print_part(part, results[part])
    return results


def print_part(part: str, summaries: Sequence[Summary]) -> None:
    """Print one line for each kind of score, number of examples and tasks, and choice of points or correlation."""
    print(f"\n{part}")
    print(
        f"{'scores':7s} {'n':>5s} {'tasks':>5s} {'points':>7s} {'shared':>6s}  coverage (lowest)  width  largest bias"
    )
    groups: dict[tuple[Any, ...], list[Summary]] = {}
    for summary in summaries:
        cell = summary.cell
        key = (cell.kind, cell.examples, cell.tasks, cell.points, cell.shared)
        groups.setdefault(key, []).append(summary)
    for (kind, examples, tasks, points, shared), members in groups.items():
        coverage = [member.coverage for member in members]
        line = f"{kind:7s} {examples:5d} {tasks:5d} {points:>7s} {shared:6.1f}"
        line += f"  {np.mean(coverage):8.1%} ({min(coverage):6.1%})"
        line += f"  {np.median([member.width for member in members]):9.3f}"
        if members[0].decided is not None:
            line += f"  excludes 0: {np.mean([member.decided for member in members]):.0%}"
            line += f", wrongly: {max(member.wrong for member in members):.1%}"
        else:
            line += f"  {100 * max((member.bias or 0.0 for member in members), key=abs):+8.1f}"
            line += f"  {np.mean([member.measured for member in members]):5.1f} points"
        print(line, flush=True)


def check(results: dict[str, list[Summary]]) -> list[str]:
    """Return what is worse than required, one line each."""
    failures = []
    for part, summaries in results.items():
        for summary in summaries:
            if summary.coverage < REQUIRED_COVERAGE:
                failures.append(f"{part}: coverage {summary.coverage:.1%} of {summary.cell}")
            is_judged = summary.cell.kind == SMOOTH and summary.cell.examples >= 200
            if is_judged and summary.bias is not None and abs(summary.bias) > MAX_BIAS:
                failures.append(f"{part}: bias {100 * summary.bias:+.1f} points of {summary.cell}")
    found: dict[tuple[str, int, str], list[float]] = {}
    for summary in results.get(CURVES, []):
        cell = summary.cell
        is_judged = cell.points in (PAPER_NAME, SEARCH_NAME)
        if cell.points == EVEN_NAME:
            is_judged = cell.kind == BINARY  # the widths of smooth scores are one or two steps of 4 points
        if cell.tasks == 1 and is_judged:
            found.setdefault((cell.kind, cell.examples, cell.points), []).append(summary.width)
    for (kind, examples, points), widths in found.items():
        limit = WIDTH_TOLERANCE * EXPECTED_WIDTHS[kind][examples]
        if np.median(widths) > limit + ROUNDING:
            failures.append(
                f"median width {np.median(widths):.3f} of {kind}, {examples} examples, {points}; at most {limit:.3f} "
                "expected"
            )
    return failures


def main() -> None:
    """Run all parts, print their tables, and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cells and repetitions")
    parser.add_argument("--repetitions", type=int, help="repetitions of each cell; default: 100, or 20 with --quick")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to run; default: all")
    parser.add_argument("--workers", type=int, default=2, help="number of processes; default: 2")
    parser.add_argument("--name", default="coverage", help="name of the result in benchmarks/results")
    args = parser.parse_args()
    repetitions = args.repetitions or (QUICK_REPETITIONS if args.quick else REPETITIONS)
    start = time.perf_counter()
    print(
        f"limits: coverage at least {REQUIRED_COVERAGE:.0%}, bias of smooth scores at most {100 * MAX_BIAS} points",
        flush=True,
    )
    cells = make_cells(args.quick)
    chosen = {part: cells[part] for part in cells if part in args.parts}
    results = run_cells(chosen, repetitions, args.workers)
    if REAL in args.parts:
        results[REAL] = resample_real_curves(args.quick, repetitions)
    failures = [] if args.quick else check(results)
    for failure in failures:
        print(failure)
    rows = {}
    for part, summaries in results.items():
        rows[part] = [asdict(summary) for summary in summaries]
    save_result(args.name, {
        "bench": "coverage", "repetitions": repetitions, "failures": failures, "cells": rows,
        "seconds": round(time.perf_counter() - start), "machine": describe_machine(), "versions": package_versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
