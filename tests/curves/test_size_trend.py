"""The trend of critical sparsity over model size."""

import numpy as np
import pytest

from sparsedial.curves import critical_difference, fit_size_trend, make_curve
from sparsedial.errors import SpecError


def make_family(slope, sizes, examples=2000, noise=1.0):
    """Make curves whose critical sparsity is 0.2 at the smallest size and grows by ``slope`` for ten times the size."""
    curves = []
    for seed, size in enumerate(sizes):
        true_value = 0.2 + slope * np.log10(size / sizes[0])
        dense = np.ones(examples)
        luck = np.random.default_rng(seed).normal(size=examples)
        points = []
        for sparsity in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6):
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
    assert trend.low < slope < trend.high
    assert trend.steps == 3
    assert trend.rising == {"more": 3, "less": 0}.get(verdict, trend.rising)


def test_a_trend_without_examples_has_no_interval_and_no_verdict():
    small, large = (make_curve([(s, 1.0), (s + 0.2, 0.9)], dense=1.0) for s in (0.2, 0.4))
    trend = fit_size_trend([1e8, 1e9], [small, large])
    assert (round(trend.slope, 6), trend.low, trend.verdict, trend.censored) == (0.2, None, "unclear", 0)
    kept = make_curve([(0.5, 1.0)], dense=1.0)
    assert fit_size_trend([1e8, 1e9], [small, kept]).censored == 1


def test_a_bracket_and_an_open_interval_count_up_to_their_ends():
    dense = np.repeat([1.0, 0.0], 1000)
    small = make_curve([(0.7, np.zeros(2000))], dense)  # somewhere between 0 and 0.7
    large = make_curve([(0.5, dense)], dense)  # somewhere between 0.5 and 1
    trend = fit_size_trend([1e8, 1e9], [small, large])
    assert trend.slope == pytest.approx(0.5 - 0.35)
    assert (trend.low, trend.high) == (pytest.approx(0.5 - 0.7), pytest.approx(1.0))
    assert (trend.verdict, trend.censored) == ("unclear", 1)


def test_every_slope_that_the_points_allow_lies_in_the_interval():
    """Models without an estimate may all lie at the ends of their brackets, and no number of examples excludes it."""
    dense = np.repeat([1.0, 0.0], 10_000)
    brackets = [(0.0, 0.43), (0.01, 0.44), (0.4, 0.8), (0.41, 0.82)]
    curves = []
    for low, high in brackets:
        points = [(high, np.zeros(20_000))]
        curves.append(make_curve([(low, dense), *points] if low else points, dense))
    sizes = [1e8, 3e8, 1e9, 3e9]
    trend = fit_size_trend(sizes, curves)
    flat = np.array([0.43, 0.43, 0.42, 0.42])  # within the brackets
    assert trend.low <= np.polyfit(np.log10(sizes), flat, 1)[0] < 0 < trend.slope
    assert trend.verdict == "unclear"


@pytest.mark.parametrize("same_examples", [True, False])
def test_the_trend_of_two_models_is_their_difference(same_examples):
    small, large = make_family(0.2, [1e8, 1e10])
    trend = fit_size_trend([1e10, 1e8], [large, small], same_examples=same_examples)
    difference = critical_difference(large, small, same_examples=same_examples)
    assert (trend.low, trend.high) == (pytest.approx(difference.low / 2), pytest.approx(difference.high / 2))
    assert trend.verdict == difference.verdict == "more"


@pytest.mark.parametrize("sizes", [[1e8], [1e8, 1e8], [0.0, 1e8], [1e8, float("nan")], [1e8, 1e9, 1e10]])
def test_sizes_that_give_no_trend_are_an_error(sizes):
    with pytest.raises(SpecError, match="at least two different sizes"):
        fit_size_trend(sizes, make_family(0.1, [1e8, 1e9]))
