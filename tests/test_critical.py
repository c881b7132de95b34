"""Curves worked out by hand, and the interval against what it must be."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsedial as sd
from sparsedial.critical import Curve, critical_sparsity, curve, resampled_retention, size_trend, task_average
from sparsedial.errors import SpecError

# (points, value, first crossing, status): dense score 1, so scores are retentions; the line to cross is 0.99
BY_HAND = [
    ([(0.2, 1.0), (0.4, 0.98)], 0.3, 0.3, "crossed"),
    ([(0.4, 0.98), (0.2, 1.0)], 0.3, 0.3, "crossed"),  # any order
    ([(0.5, 0.98)], 0.25, 0.25, "not reached"),  # between dense and the first point
    ([(0.2, 1.0), (0.6, 0.995)], 0.6, 0.6, "beyond"),  # still kept at the last point
    ([(0.2, 0.98), (0.4, 1.0), (0.6, 0.98)], 0.5, 0.1, "crossed"),  # crosses three times: highest, and first
    ([(0.2, 0.99), (0.4, 0.5)], 0.2, 0.2, "crossed"),  # exactly on the line
    ([(0.2, 1.02), (0.4, 0.96)], 0.3, 0.3, "crossed"),  # better than dense on the way
    ([(0.1, 0.5), (0.2, 0.4)], 0.002, 0.002, "not reached"),
]


@pytest.mark.parametrize(("points", "value", "first", "status"), BY_HAND)
def test_by_hand(points, value, first, status):
    found = sd.critical_sparsity(points, dense=1.0)
    assert found.value == pytest.approx(value)
    assert found.first_crossing == pytest.approx(first)
    assert found.status == status
    assert found.low is found.high is None


def test_the_dense_point_may_be_among_the_points():
    assert sd.critical_sparsity([(0.0, 0.5), (0.2, 0.5), (0.4, 0.49)]).value == pytest.approx(0.3)


def test_retain_can_be_chosen_and_p_is_interpolated():
    found = sd.critical_sparsity([(0.2, 1.0, 0.95), (0.4, 0.8, 0.85)], retain=0.9, dense=1.0)
    assert (found.value, found.p, found.retain) == (pytest.approx(0.3), pytest.approx(0.9), 0.9)


@pytest.mark.parametrize(
    ("points", "dense", "message"),
    [
        ([], 1.0, "no points"),
        ([(0.5, 1.0)], None, "no dense score"),
        ([(1.5, 1.0)], 1.0, r"expected a sparsity in \[0, 1\]"),
        ([(0.5, float("nan"))], 1.0, "NaN"),
        ([(0.5, 1.0)], 0.0, "above 0"),
        ([(0.5, [1.0, 0.0])], [1.0], "same examples"),
        ([0.5], 1.0, "expected .sparsity, score."),
    ],
)
def test_bad_points_are_refused(points, dense, message):
    with pytest.raises(SpecError, match=message):
        sd.critical_sparsity(points, dense=dense)
    with pytest.raises(SpecError, match="retain"):
        sd.critical_sparsity([(0.5, 1.0)], retain=1.5, dense=1.0)


def test_task_average_is_that_of_the_paper():
    random = np.random.default_rng(0)
    tasks = [
        curve([(s, random.random(50), p) for s, p in zip(sparsities, (0.9, 0.8, 0.7), strict=True)], random.random(50))
        for sparsities in [(0.1, 0.3, 0.5), (0.2, 0.3, 0.7)]
    ]
    mean = task_average(tasks)
    np.testing.assert_allclose(mean.sparsity, [0.15, 0.3, 0.6])
    np.testing.assert_allclose(mean.score, (tasks[0].score + tasks[1].score) / 2)
    assert mean.dense == pytest.approx((tasks[0].dense + tasks[1].dense) / 2)
    assert [e.shape for e in mean.examples] == [(50, 4), (50, 4)]
    with pytest.raises(SpecError, match="different p"):
        task_average([tasks[0], curve([(0.1, 0.5, 0.5)], dense=1.0)])


def test_task_average_takes_points_in_any_order():
    a = curve([(0.2, 1.0, 0.9), (0.4, 0.5, 0.8)], dense=1.0)
    b = curve([(0.3, 0.7, 0.9), (0.29, 0.9, 0.8)], dense=1.0)  # the sparser dial value came out less sparse
    mean = task_average([a, b])
    np.testing.assert_allclose(mean.p, [0.9, 0.8])
    np.testing.assert_allclose(mean.sparsity, [0.25, 0.345])
    np.testing.assert_allclose(mean.score, [0.85, 0.7])


def test_before_the_first_point_p_is_not_known():
    assert sd.critical_sparsity([(0.5, 0.9, 0.8), (0.7, 0.5, 0.6)], dense=1.0).p is None


def synthetic(examples, seed):
    """Dense is right 60% of the time; at sparsity s, each right answer is lost with probability s / 10."""
    random = np.random.default_rng(seed)
    dense = random.random(examples) < 0.6
    luck = random.random(examples)
    return [(s, (dense & (luck > s / 10)).astype(float), 1 - s) for s in (0.05, 0.1, 0.2, 0.4)], dense.astype(float)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Retention is 1 - s / 10, so critical sparsity is 0.1 exactly."""
    inside = 0
    for seed in range(200):
        points, dense = synthetic(400, seed)
        found = critical_sparsity(curve(points, dense), resamples=300, seed=seed)
        assert found.low <= found.value <= found.high or found.value == pytest.approx(found.low, abs=0.02)
        inside += found.low <= 0.1 <= found.high
    assert 0.85 * 200 <= inside <= 200


def test_dense_and_sparse_are_resampled_together():
    """The same examples right everywhere: retention is 1 in every resample, however few examples."""
    right = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    measured = curve([(0.3, right), (0.6, right)], right)
    assert (resampled_retention(measured) == 1.0).all()
    found = critical_sparsity(measured)
    assert (found.value, found.low, found.high, found.status, found.open) == (0.6, 0.6, 0.6, "beyond", True)
    assert found.examples_needed(6) is None  # how wide the interval is, is not known
    assert replace(found, low=0.4).examples_needed(6) == 150  # at least


def test_more_examples_narrow_the_interval_as_predicted():
    few = critical_sparsity(curve(*synthetic(400, 1)))
    needed = few.examples_needed(400)
    many = critical_sparsity(curve(*synthetic(needed, 2)))
    assert (many.high - many.low) / 2 == pytest.approx(0.02, rel=0.6)
    assert critical_sparsity([(0.5, 0.9)], dense=1.0).examples_needed(100) is None


@given(st.lists(st.tuples(st.floats(0.001, 1), st.floats(0, 1.2)), min_size=1, max_size=8, unique_by=lambda t: t[0]))
def test_the_answer_lies_on_the_curve(points):
    measured = curve(points, dense=1.0)
    found = critical_sparsity(measured)
    assert 0 <= found.first_crossing <= found.value + 1e-12 <= 1 + 1e-12
    at = np.interp(found.value, [0, *measured.sparsity], [1, *measured.retention])
    assert at >= 0.99 - 1e-6
    beyond = [r for s, r in zip(measured.sparsity, measured.retention, strict=True) if s > found.value + 1e-9]
    assert all(r < 0.99 + 1e-9 for r in beyond)
    assert isinstance(measured, Curve)


def family(slope, sizes, count=2000, noise=1.0):
    """Models whose critical sparsity is 0.2 at the smallest size and grows by ``slope`` for ten times the size."""
    curves = []
    for seed, size in enumerate(sizes):
        true = 0.2 + slope * np.log10(size / sizes[0])
        dense = np.ones(count)
        luck = np.random.default_rng(seed).normal(size=count)
        points = [(s, dense - 0.01 * s / true + noise * 0.1 * s * (luck - luck.mean()), 1 - s) for s in (0.1, 0.3, 0.6)]
        curves.append(curve(points, dense))
    return curves


@pytest.mark.parametrize(("slope", "verdict"), [(0.1, "more"), (-0.05, "less"), (0.0, "unclear")])
def test_the_trend_with_size_is_found_with_its_interval(slope, verdict):
    sizes = [1e8, 5e8, 2e9, 1e10]
    found = size_trend(sizes, family(slope, sizes))
    assert found.slope == pytest.approx(slope, abs=0.01)
    assert found.low <= found.slope <= found.high
    assert found.verdict == verdict
    assert found.steps == 3
    assert found.rising == {"more": 3, "less": 0}.get(verdict, found.rising)


def test_a_trend_without_examples_has_no_interval_and_no_verdict():
    small, large = (curve([(s, 1.0), (s + 0.2, 0.9)], dense=1.0) for s in (0.2, 0.4))
    found = size_trend([1e8, 1e9], [small, large])
    assert (round(found.slope, 6), found.low, found.verdict, found.bounds) == (0.2, None, "unclear", 0)
    kept = curve([(0.5, 1.0)], dense=1.0)
    assert size_trend([1e8, 1e9], [small, kept]).bounds == 1


def test_models_scored_on_the_same_examples_are_paired():
    """The larger model tolerates more in every resample, although both intervals are wide."""
    random = np.random.default_rng(0)
    falls = random.random(300) < 0.05
    dense = np.ones(300)
    small, large = (curve([(s, dense), (s + 0.2, np.where(falls, 0.0, 1.0))], dense) for s in (0.2, 0.3))
    alone = [critical_sparsity(c) for c in (small, large)]
    found = size_trend([1e8, 1e9], [small, large])
    assert all(c.high - c.low > 0.01 for c in alone)
    assert found.high - found.low < 1e-9
    assert found.verdict == "more"


@pytest.mark.parametrize("sizes", [[1e8], [1e8, 1e8], [0.0, 1e8], [1e8, float("nan")], [1e8, 1e9, 1e10]])
def test_sizes_that_give_no_trend_are_an_error(sizes):
    with pytest.raises(SpecError, match="at least two sizes"):
        size_trend(sizes, family(0.1, [1e8, 1e9]))
