"""Critical sparsity: values worked out by hand, and the interval compared with what it must be."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sparsedial as sd
from sparsedial.curves import Curve, critical_sparsity, make_curve

# (points, value, first crossing, status): the dense score is 1, so scores are retentions; 0.99 must be kept.
CASES = [
    ([(0.2, 1.0), (0.4, 0.98)], 0.3, 0.3, "crossed"),
    ([(0.4, 0.98), (0.2, 1.0)], 0.3, 0.3, "crossed"),  # any order
    ([(0.5, 0.98)], 0.25, 0.25, "left-censored"),  # between dense and the first point
    ([(0.2, 1.0), (0.6, 0.995)], 0.6, 0.6, "right-censored"),  # still kept at the last point
    ([(0.2, 0.98), (0.4, 1.0), (0.6, 0.98)], 0.5, 0.1, "crossed"),  # crosses three times: highest and first
    ([(0.2, 0.99), (0.4, 0.5)], 0.2, 0.2, "crossed"),  # exactly at 0.99
    ([(0.2, 1.02), (0.4, 0.96)], 0.3, 0.3, "crossed"),  # better than dense at the first point
    ([(0.1, 0.5), (0.2, 0.4)], 0.002, 0.002, "left-censored"),
]


@pytest.mark.parametrize(("points", "value", "first", "status"), CASES)
def test_by_hand(points, value, first, status):
    critical = sd.critical_sparsity(points, dense=1.0)
    assert critical.value == pytest.approx(value)
    assert critical.first_crossing == pytest.approx(first)
    assert critical.status == status
    assert critical.low is critical.high is None


def test_the_dense_point_may_be_among_the_points():
    assert sd.critical_sparsity([(0.0, 0.5), (0.2, 0.5), (0.4, 0.49)]).value == pytest.approx(0.3)


def test_retain_can_be_chosen_and_p_is_interpolated():
    critical = sd.critical_sparsity([(0.2, 1.0, 0.95), (0.4, 0.8, 0.85)], retain=0.9, dense=1.0)
    assert (critical.value, critical.p, critical.retain) == (pytest.approx(0.3), pytest.approx(0.9), 0.9)


def test_before_the_first_point_p_is_not_known():
    assert sd.critical_sparsity([(0.5, 0.9, 0.8), (0.7, 0.5, 0.6)], dense=1.0).p is None


def make_points(examples, seed):
    """Dense is right 60% of the time. At sparsity s, each right answer is lost with probability s / 10."""
    random = np.random.default_rng(seed)
    dense = random.random(examples) < 0.6
    luck = random.random(examples)
    return [(s, (dense & (luck > s / 10)).astype(float), 1 - s) for s in (0.05, 0.1, 0.2, 0.4)], dense.astype(float)


def test_the_interval_covers_the_true_value_about_as_often_as_it_claims():
    """Retention is 1 - s / 10, so critical sparsity is 0.1 exactly."""
    covered = 0
    for seed in range(200):
        points, dense = make_points(400, seed)
        critical = critical_sparsity(make_curve(points, dense), resamples=300, seed=seed)
        assert critical.low <= critical.value <= critical.high or critical.value == pytest.approx(
            critical.low, abs=0.02
        )
        covered += critical.low <= 0.1 <= critical.high
    assert 0.85 * 200 <= covered <= 200


def test_an_interval_of_censored_resamples_is_censored():
    """Examples that are right are right everywhere, so every resample keeps everything."""
    right = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    critical = critical_sparsity(make_curve([(0.3, right), (0.6, right)], right))
    assert (critical.value, critical.low, critical.high) == (0.6, 0.6, 0.6)
    assert critical.status == "right-censored"
    assert critical.high_censored
    assert critical.examples_needed(6) is None  # the width of the interval is not known
    assert replace(critical, low=0.4).examples_needed(6) == 150  # at least


def test_more_examples_narrow_the_interval_as_predicted():
    few = critical_sparsity(make_curve(*make_points(400, 1)))
    needed = few.examples_needed(400)
    many = critical_sparsity(make_curve(*make_points(needed, 2)))
    assert (many.high - many.low) / 2 == pytest.approx(0.02, rel=0.6)
    assert critical_sparsity([(0.5, 0.9)], dense=1.0).examples_needed(100) is None


def highest_retention(curve, low, high):
    """The highest retention of a curve at sparsities in [low, high]."""
    sparsity = [0, *curve.sparsity]
    retention = [1, *curve.retention]
    candidates = [r for s, r in zip(sparsity, retention, strict=True) if low <= s <= high]
    return max([*candidates, *np.interp([low, high], sparsity, retention)])


@given(st.lists(st.tuples(st.floats(0.001, 1), st.floats(0, 1.2)), min_size=1, max_size=8, unique_by=lambda t: t[0]))
@example([(1.0, 0.875), (0.9999999999999999, 1.125)])  # no float lies between the two sparsities
def test_the_answer_lies_on_the_curve(points):
    measured = make_curve(points, dense=1.0)
    critical = critical_sparsity(measured)
    assert 0 <= critical.first_crossing <= critical.value + 1e-12 <= 1 + 1e-12
    # The value is rounded to a float, and a curve may fall by any amount within the rounding. So the tolerance is one
    # of sparsity: the retention is there at the value, or less than 1e-12 below it.
    assert highest_retention(measured, critical.value - 1e-12, critical.value) >= 0.99 - 1e-6
    sparser = [r for s, r in zip(measured.sparsity, measured.retention, strict=True) if s > critical.value + 1e-9]
    assert all(r < 0.99 + 1e-9 for r in sparser)
    assert isinstance(measured, Curve)
