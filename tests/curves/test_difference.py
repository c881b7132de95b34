"""The difference of two critical sparsities."""

import numpy as np
import pytest

from sparsedial.curves import critical_difference, critical_sparsity, make_curve

GRID = np.linspace(0.05, 0.75, 15)


def draw_curve(true_value, luck, dense, noise):
    """Draw a smooth curve. Retention falls to 0.99 at ``true_value``; ``luck`` is the part that curves share."""
    points = []
    for sparsity in GRID:
        own = noise.normal(size=len(dense))
        retention = 1 - 0.01 * (sparsity / true_value) ** 3
        points.append((sparsity, dense * retention + 0.06 * sparsity * (0.95 * luck + 0.3 * own)))
    return make_curve(points, dense)


def draw_pair(seed, first, second, examples=200):
    random = np.random.default_rng(seed)
    dense = random.uniform(0.3, 1.0, examples)
    luck = random.normal(size=examples)
    return draw_curve(first, luck, dense, random), draw_curve(second, luck, dense, random)


@pytest.mark.parametrize(("first", "second"), [(0.3, 0.3), (0.3, 0.4)])
def test_the_interval_covers_the_true_difference(first, second):
    covered = 0
    wrong = 0
    for seed in range(60):
        difference = critical_difference(*draw_pair(seed, first, second))
        covered += difference.low <= first - second + 1e-9 and first - second - 1e-9 <= difference.high
        wrong += difference.verdict == "more"
    assert covered >= 57
    assert wrong <= 2


def test_curves_on_the_same_examples_are_paired():
    """Both intervals overlap widely, and the paired one is much narrower than their difference."""
    narrower = []
    for seed in range(10):
        first, second = draw_pair(seed, 0.3, 0.4, examples=100)
        ends = [critical_sparsity(curve) for curve in (first, second)]
        assert ends[0].high > ends[1].low
        difference = critical_difference(first, second)
        assert ends[0].low - ends[1].high <= difference.low and difference.high <= ends[0].high - ends[1].low
        alone = (ends[0].high - ends[0].low) + (ends[1].high - ends[1].low)
        narrower.append((difference.high - difference.low) / alone)
    assert np.median(narrower) < 0.75


def test_the_sign_is_decided_and_turns_with_the_order():
    low, high = draw_pair(0, 0.2, 0.5)
    assert critical_difference(high, low).verdict == "more"
    assert critical_difference(low, high).verdict == "less"
    there, back = critical_difference(high, low), critical_difference(low, high)
    assert (there.low, there.high, there.estimate) == pytest.approx((-back.high, -back.low, -back.estimate))


def test_a_curve_does_not_differ_from_itself():
    curve, _ = draw_pair(1, 0.3, 0.3)
    difference = critical_difference(curve, curve)
    assert difference.estimate == 0.0
    assert difference.low <= 0.0 <= difference.high
    assert difference.verdict == "unclear"


def test_curves_with_other_examples_are_independent():
    first, _ = draw_pair(0, 0.3, 0.3, examples=150)
    second, _ = draw_pair(1, 0.3, 0.3, examples=100)
    ends = [critical_sparsity(curve) for curve in (first, second)]
    difference = critical_difference(first, second)
    assert ends[0].low - ends[1].high <= difference.low < 0 < difference.high <= ends[0].high - ends[1].low


def test_an_open_interval_reaches_to_1():
    dense = np.repeat([1.0, 0.0], 1000)
    kept = make_curve([(0.5, dense)], dense)
    lost = make_curve([(0.2, np.zeros(2000))], dense)
    difference = critical_difference(kept, lost)
    assert (difference.low, difference.high, difference.verdict) == (pytest.approx(0.3), 1.0, "more")


def test_without_examples_or_estimate_there_is_less():
    scores_only = make_curve([(0.2, 1.0), (0.4, 0.98)], dense=1.0)
    difference = critical_difference(scores_only, scores_only)
    assert (difference.estimate, difference.low, difference.verdict) == (0.0, None, "unclear")
    assert critical_difference(scores_only, make_curve([(0.9, 0.5)], dense=1.0)).estimate is None
