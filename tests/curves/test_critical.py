"""Critical sparsity: values worked out by hand, and the interval compared with what it must be."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sparsedial as sd
from sparsedial.curves import CriticalSparsity, Curve, critical_sparsity, make_curve

# (points, value, first crossing, status): the dense score is 1, so scores are retentions; 0.99 must be kept.
CASES = [
    ([(0.2, 1.0), (0.4, 0.98)], 0.3, 0.3, "crossed"),
    ([(0.4, 0.98), (0.2, 1.0)], 0.3, 0.3, "crossed"),  # any order
    ([(0.2, 0.98)], 0.1, 0.1, "left-censored"),  # between dense and the first point
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


@pytest.mark.parametrize("points", [[(0.5, 0.98)], [(0.78, 0.4)], [(0.2, 1.0), (0.9, 0.1)]])
def test_nothing_is_interpolated_over_a_wide_gap(points):
    critical = sd.critical_sparsity(points, dense=1.0)
    assert critical.estimate is critical.p is critical.first_crossing is None
    low = points[-2][0] if len(points) > 1 else 0.0
    assert critical.bracket == (low, points[-1][0])
    assert critical.center == pytest.approx(sum(critical.bracket) / 2)


def test_a_crossing_at_a_point_needs_no_interpolation():
    critical = sd.critical_sparsity([(0.3, 0.99), (0.9, 0.1)], dense=1.0)
    assert (critical.estimate, critical.bracket) == (0.3, (0.3, 0.9))
    assert sd.critical_sparsity([(0.9, 1.0)], dense=1.0).estimate == 0.9


def test_one_point_that_loses_gives_an_interval_from_0():
    """Interpolation between the dense model and the point would say 0.9%, with an interval of a tenth of a point."""
    dense = np.repeat([1.0, 0.0], 100)
    sparse = dense.copy()
    sparse[:90] = 0.0
    critical = critical_sparsity(make_curve([(0.78, sparse, 0.5)], dense))
    assert (critical.estimate, critical.low, critical.high) == (None, 0.0, 0.78)
    assert (critical.p_low, critical.p_high) == (None, 0.5)
    assert not critical.right_censored
    assert critical.needs_points() and critical.undecided_width == 0.0
    assert critical.examples_needed(200) == critical.fewest_examples > 200


def flat_then_lost(examples, seed=0, lost=(0.0, 0.0, 0.4, 0.5)):
    """Scores of 0 or 1 at four points. Of the right answers, a share is lost at each."""
    random = np.random.default_rng(seed)
    dense = (random.random(examples) < 0.6).astype(float)
    luck = random.random(examples)
    points = []
    for sparsity, share in zip((0.1, 0.2, 0.3, 0.4), lost, strict=True):
        points.append((sparsity, dense * (luck > share), 1 - sparsity))
    return make_curve(points, dense)


def test_the_ends_are_the_last_point_that_keeps_and_the_first_from_which_every_point_loses():
    critical = critical_sparsity(flat_then_lost(2000))
    assert [point.verdict for point in critical.verdicts] == ["keeps", "keeps", "loses", "loses"]
    assert (critical.low, critical.high) == (0.2, 0.3)
    assert (critical.p_low, critical.p_high) == (pytest.approx(0.8), pytest.approx(0.7))
    assert 0.2 < critical.estimate < 0.3
    assert critical.low_bracket == critical.high_bracket == critical.bracket == (0.2, 0.3)


def test_a_dip_that_recovers_is_inside_the_interval():
    critical = critical_sparsity(flat_then_lost(2000, lost=(0.0, 0.3, 0.0, 0.5)))
    assert [point.verdict for point in critical.verdicts] == ["keeps", "loses", "keeps", "loses"]
    assert (critical.low, critical.high) == (0.3, 0.4)
    assert critical.first_crossing < 0.2 < critical.estimate
    undecided = critical_sparsity(flat_then_lost(40, lost=(0.0, 0.5, 0.0, 0.5)))
    assert [point.verdict for point in undecided.verdicts] == ["undecided", "loses", "undecided", "loses"]
    assert (undecided.low, undecided.high, undecided.right_censored) == (0.0, 0.4, False)
    assert undecided.undecided_width == pytest.approx(0.2)  # from the first point to the one before the upper end


@pytest.mark.parametrize(("examples", "low"), [(40, 0.0), (2000, 0.4)])
def test_a_last_point_that_does_not_lose_leaves_the_interval_open(examples, low):
    critical = critical_sparsity(flat_then_lost(examples, lost=(0.0, 0.0, 0.0, 0.0)))
    assert (critical.low, critical.high, critical.right_censored) == (low, 0.4, True)
    assert critical.status == "right-censored"
    assert critical.high_bracket is None
    assert critical.p_high == pytest.approx(0.6)


def test_the_interval_covers_the_true_value_with_few_examples():
    """Retention is 1 - s / 10, so critical sparsity is 0.1. The bootstrap of the crossing covers it in 31%."""
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        dense = (random.random(64) < 0.6).astype(float)
        luck = random.random(64)
        points = [(s, dense * (luck > s / 10)) for s in np.linspace(0.05, 0.95, 19)]
        critical = critical_sparsity(make_curve(points, dense))
        covered += critical.low <= 0.1 and (critical.right_censored or critical.high >= 0.1)
    assert covered >= 0.95 * 200


@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 6), st.booleans())
def test_the_estimate_lies_in_the_interval(seed, examples, count, is_binary):
    random = np.random.default_rng(seed)
    scores = random.random((count + 1, examples))
    if is_binary:
        scores = scores.round()
    scores[0, 0] = 1.0  # the dense score is above 0
    points = zip(np.sort(random.random(count)), scores[1:], strict=True)
    critical = critical_sparsity(make_curve(list(points), scores[0]))
    assert 0 <= critical.low <= critical.bracket[0] <= critical.bracket[1] <= critical.high
    if critical.estimate is not None:
        assert critical.low <= critical.estimate <= critical.high
    assert {critical.low, critical.high} <= {0.0, *(point.sparsity for point in critical.verdicts)}


def test_examples_are_needed_for_undecided_points_only():
    assert CriticalSparsity(0.4, 0.36, 0.44, 0.4, "crossed", None).examples_needed(100) == 400
    narrow = critical_sparsity(flat_then_lost(2000))
    assert narrow.examples_needed(2000) == 0 and narrow.needs_points()
    wide = critical_sparsity(flat_then_lost(100, lost=(0.0, 0.02, 0.04, 0.5)))
    assert wide.examples_needed(100) > wide.fewest_examples > 100
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
    assert critical.bracket[0] <= critical.center <= critical.bracket[1]
    if critical.estimate is None:
        return
    assert critical.first_crossing is None or 0 <= critical.first_crossing <= critical.value + 1e-12 <= 1 + 1e-12
    # The value is rounded to a float, and a curve may fall by any amount within the rounding. So the tolerance is one
    # of sparsity: the retention is there at the value, or less than 1e-12 below it.
    assert highest_retention(measured, critical.value - 1e-12, critical.value) >= 0.99 - 1e-6
    sparser = [r for s, r in zip(measured.sparsity, measured.retention, strict=True) if s > critical.value + 1e-9]
    assert all(r < 0.99 + 1e-9 for r in sparser)
    assert isinstance(measured, Curve)
