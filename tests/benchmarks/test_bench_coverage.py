"""The benchmark of coverage, in small."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.bench_coverage import (
    CURVES,
    DIFFERENCES,
    PAPER_NAME,
    SEARCH_NAME,
    TRENDS,
    Cell,
    check,
    resample_real_curve,
    simulate_curves,
    simulate_differences,
    simulate_trends,
)
from benchmarks.simulated_scores import BINARY, SHAPES, SMOOTH, draw_tasks, true_critical_sparsity
from sparsedial.curves import make_curve


@pytest.mark.parametrize("kind", [BINARY, SMOOTH])
@pytest.mark.parametrize("name", SHAPES)
def test_the_mean_scores_are_those_of_the_curve(kind, name):
    ((task,),) = draw_tasks([SHAPES[name]], kind, examples=200_000, tasks=1, seed=1)
    for sparsity in (0.1, 0.3, 0.5):
        expected = float(SHAPES[name](np.asarray(sparsity)))
        assert task.score(sparsity).mean() / task.dense.mean() == pytest.approx(expected, abs=0.004)
        assert task.score(sparsity) is task.score(sparsity)
    changes = [task.score(sparsity) - task.dense for sparsity in (0.4, 0.5)]
    assert np.corrcoef(*changes)[0, 1] > 0.3  # an example changes at its own sparsity


def test_the_critical_sparsity_of_a_dip_is_behind_it():
    assert true_critical_sparsity(SHAPES["dip that recovers"]) > 0.35


@pytest.mark.parametrize("points", [PAPER_NAME, SEARCH_NAME])
@pytest.mark.parametrize("tasks", [1, 3])
def test_curves_are_covered(points, tasks):
    summary = simulate_curves(Cell(SMOOTH, 100, tasks, points, "middle"), repetitions=4)
    assert summary.coverage >= 0.75
    assert 0 < summary.width < 0.5
    assert abs(summary.bias) < 0.1


def test_differences_and_trends_are_covered():
    difference = simulate_differences(Cell(SMOOTH, 2000, 1, PAPER_NAME, "steep - late knee", 0.5), repetitions=3)
    trend = simulate_trends(Cell(SMOOTH, 2000, 1, PAPER_NAME, "rising", 0.5), repetitions=3)
    for summary in (difference, trend):
        assert summary.coverage == 1.0
        assert (summary.decided, summary.wrong) == (1.0, 0.0)


def test_real_scores_are_resampled():
    random = np.random.default_rng(0)
    dense = random.random(300)
    curve = make_curve([(0.2, dense, 0.9), (0.4, dense * 0.9, 0.8)], dense)
    summary = resample_real_curve(curve, Cell(SMOOTH, 64, 1, PAPER_NAME, "real"), repetitions=5)
    assert summary.coverage == 1.0


def test_what_is_worse_than_required_is_listed():
    good = simulate_curves(Cell(SMOOTH, 200, 1, PAPER_NAME, "steep"), repetitions=2)
    results = {CURVES: [replace(good, coverage=1.0, bias=0.0, width=0.12)], DIFFERENCES: [], TRENDS: []}
    assert check(results) == []
    results[CURVES] = [replace(good, coverage=0.9, bias=0.02, width=0.3)]
    assert [failure.split()[1] for failure in check(results)] == ["coverage", "bias", "width"]
