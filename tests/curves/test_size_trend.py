"""The trend of critical sparsity over model size."""

import numpy as np
import pytest

from sparsedial.curves import critical_sparsity, fit_size_trend, make_curve
from sparsedial.errors import SpecError


def make_family(slope, sizes, examples=2000, noise=1.0):
    """Make curves whose critical sparsity is 0.2 at the smallest size and grows by ``slope`` for ten times the size."""
    curves = []
    for seed, size in enumerate(sizes):
        true_value = 0.2 + slope * np.log10(size / sizes[0])
        dense = np.ones(examples)
        luck = np.random.default_rng(seed).normal(size=examples)
        points = []
        for sparsity in (0.1, 0.3, 0.6):
            scores = dense - 0.01 * sparsity / true_value + noise * 0.1 * sparsity * (luck - luck.mean())
            points.append((sparsity, scores, 1 - sparsity))
        curves.append(make_curve(points, dense))
    return curves


@pytest.mark.parametrize(("slope", "verdict"), [(0.1, "more"), (-0.05, "less"), (0.0, "unclear")])
def test_the_slope_is_estimated_with_its_interval(slope, verdict):
    sizes = [1e8, 5e8, 2e9, 1e10]
    trend = fit_size_trend(sizes, make_family(slope, sizes))
    assert trend.slope == pytest.approx(slope, abs=0.01)
    assert trend.low <= trend.slope <= trend.high
    assert trend.verdict == verdict
    assert trend.steps == 3
    assert trend.rising == {"more": 3, "less": 0}.get(verdict, trend.rising)


def test_a_trend_without_examples_has_no_interval_and_no_verdict():
    small, large = (make_curve([(s, 1.0), (s + 0.2, 0.9)], dense=1.0) for s in (0.2, 0.4))
    trend = fit_size_trend([1e8, 1e9], [small, large])
    assert (round(trend.slope, 6), trend.low, trend.verdict, trend.censored) == (0.2, None, "unclear", 0)
    kept = make_curve([(0.5, 1.0)], dense=1.0)
    assert fit_size_trend([1e8, 1e9], [small, kept]).censored == 1


def test_models_scored_on_the_same_examples_are_paired():
    """The larger model tolerates more in every resample, although both intervals are wide."""
    random = np.random.default_rng(0)
    falls = random.random(300) < 0.05
    dense = np.ones(300)
    small, large = (make_curve([(s, dense), (s + 0.2, np.where(falls, 0.0, 1.0))], dense) for s in (0.2, 0.3))
    for curve in (small, large):
        critical = critical_sparsity(curve)
        assert critical.high - critical.low > 0.01
    trend = fit_size_trend([1e8, 1e9], [small, large])
    assert trend.high - trend.low < 1e-9
    assert trend.verdict == "more"


@pytest.mark.parametrize("sizes", [[1e8], [1e8, 1e8], [0.0, 1e8], [1e8, float("nan")], [1e8, 1e9, 1e10]])
def test_sizes_that_give_no_trend_are_an_error(sizes):
    with pytest.raises(SpecError, match="at least two different sizes"):
        fit_size_trend(sizes, make_family(0.1, [1e8, 1e9]))
