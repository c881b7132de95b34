"""The adaptive search on known curves."""

import numpy as np
import pytest

from sparsedial.curves.critical import critical_sparsity
from sparsedial.curves.curve import make_curve
from sparsedial.rules import RULES
from sparsedial.study.adaptive_search import (
    MAX_POINTS,
    MIN_BRACKET_SHARE,
    MORE_EXAMPLES_NEEDED,
    POINTS_USED,
    PRECISION_REACHED,
    SPARSEST_VALUE_REACHED,
    next_step,
)

PAPER_GRID = [1.0, 0.995, 0.99, 0.985, 0.98, 0.975, 0.97, *np.arange(0.96, 0.895, -0.01).round(2),
              *np.arange(0.85, 0.55, -0.05).round(2), 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]  # fmt: skip


def model(rule, sharpness, half):
    """Return a smooth curve: sparsity grows with the distance from dense, and retention falls with sparsity."""

    def measure(value):
        distance = abs(value - RULES[rule].dense_value)
        sparsity = min(1.0, distance**0.5)
        return sparsity, max(0.0, 1 - (sparsity / half) ** sharpness), value

    return measure


def search(rule, measure, tolerance=0.01):
    points = []
    while True:
        curve = make_curve(points, dense=1.0) if points else None
        step = next_step(rule, curve, 0.99, tolerance, MAX_POINTS).rule
        if step is None:
            return points
        value = step.value
        assert 0.0 <= value <= 1.0
        assert value not in [p for _, _, p in points]
        points.append(measure(value))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "n_of_m"])
@pytest.mark.parametrize("sharpness", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("half", [0.4, 0.7, 1.1])
def test_it_finds_what_the_papers_grid_finds_with_three_times_fewer_points(rule, sharpness, half):
    measure = model(rule, sharpness, half)
    points = search(rule, measure)
    truth = half * 0.01 ** (1 / sharpness)
    assert critical_sparsity(points, dense=1.0).value == pytest.approx(truth, abs=0.02)
    assert len(points) <= len(PAPER_GRID) / 3


@pytest.mark.parametrize(("family", "m"), [("n_of_m", 4), ("n_of_m(m=16)", 16)])
def test_a_rule_with_few_different_values_is_measured_once_at_each(family, m):
    points = search(family, lambda value: (1 - value, value, value))
    counts = [value * m for _, _, value in points]
    assert all(count.is_integer() and count < m for count in counts)
    low, high = critical_sparsity(points, dense=1.0).bracket
    assert low == 0.0 and high <= 2 / m + 1e-9


def test_a_model_that_loses_nothing_is_measured_up_to_the_sparsest_value():
    points = search("top_p", lambda value: (1 - value if value < 1 else 0.001, 1.0, value))
    assert points[-1][2] == 0.0
    assert critical_sparsity(points, dense=1.0).status == "right-censored"


def test_a_model_that_loses_immediately_ends_the_search():
    points = search("top_p", lambda value: ((1 - value) ** 0.5, 0.1, value))
    assert len(points) <= MAX_POINTS
    assert critical_sparsity(points, dense=1.0).status == "left-censored"


def noisy_model(examples, noise, true_value=0.3, exponent=4.0, seed=0):
    """Return a model with known critical sparsity whose examples differ. Sparsity is the root of 1 - p."""
    random = np.random.default_rng(seed)
    dense = random.uniform(0.2, 1.0, examples)
    luck = random.normal(size=examples)

    def measure(value):
        sparsity = max((1 - value) ** 0.5, 1e-12)
        own = np.random.default_rng(round(1e4 * value)).normal(size=examples)
        retention = max(0.0, 1 - 0.01 * (sparsity / true_value) ** exponent)
        return sparsity, dense * retention + noise * sparsity * (luck + own), value

    return dense, measure


def search_to_precision(dense, measure, precision=0.02, max_points=20):
    """Search until the end and return the curve and the reason."""
    points = []
    curve = None
    while True:
        step = next_step("top_p", curve, 0.99, precision, max_points)
        if step.end is not None:
            return curve, step.end
        assert step.rule.value not in [p for _, _, p in points]
        points.append(measure(step.rule.value))
        curve = make_curve(points, dense)


def test_the_search_ends_when_the_interval_is_as_narrow_as_requested():
    curve, end = search_to_precision(*noisy_model(4000, 0.02))
    critical = critical_sparsity(curve)
    assert end == PRECISION_REACHED
    assert critical.high - critical.low <= 0.04
    assert critical.low <= 0.3 <= critical.high
    assert len(curve.p) <= 12


def test_the_search_says_that_more_examples_are_needed():
    curve, end = search_to_precision(*noisy_model(60, 0.2))
    critical = critical_sparsity(curve)
    assert end == MORE_EXAMPLES_NEEDED
    assert critical.high - critical.low > 0.1
    for low, high in (critical.low_bracket, critical.high_bracket):
        assert high - low <= max(0.02, MIN_BRACKET_SHARE * (critical.high - critical.low))


def test_points_are_placed_at_the_ends_of_the_interval():
    """After the first points, every new point lies next to an end of the interval that it could move."""
    dense, measure = noisy_model(200, 0.05)
    points = [measure(value) for value in (0.9, 0.97, 0.8)]
    at_ends = 0
    for _ in range(6):
        curve = make_curve(points, dense)
        critical = critical_sparsity(curve)
        step = next_step("top_p", curve, 0.99, 0.005, 20)
        sparsity = (1 - step.rule.value) ** 0.5
        for bracket in (critical.low_bracket, critical.high_bracket):
            if bracket is not None and bracket[0] < sparsity < bracket[1]:
                at_ends += 1
                break
        points.append(measure(step.rule.value))
    assert at_ends == 6


@pytest.mark.parametrize(("gaps", "expected"), [
    ((0.30, 0.44), 0.38),
    ((0.25, 0.30, 0.35, 0.40, 0.44), None),
])  # fmt: skip
def test_wide_gaps_behind_the_highest_crossing_are_measured(gaps, expected):
    """Noise hides that the model keeps its score up to 44%, so the highest crossing is at 20%."""
    pattern = np.resize([1.0, -1.0], 200)
    dense = np.resize([0.4, 0.6], 200)
    retention = {0.05: 0.999, 0.19: 0.996, 0.2: 0.991, 0.21: 0.9895, 0.45: 0.92, 0.6: 0.8}
    retention |= dict.fromkeys(gaps, 0.9895)
    points = []
    for sparsity, kept in retention.items():
        points.append((sparsity, dense * kept + 0.04 * sparsity * pattern, 1 - sparsity**2))
    for value in (0.9, 0.97, 0.8):  # what every search measures first
        sparsity = (1 - value) ** 0.5
        kept = 0.996 if sparsity < 0.2 else 0.9895
        points.append((sparsity, dense * kept + 0.04 * sparsity * pattern, value))
    curve = make_curve(points, dense)
    step = next_step("top_p", curve, 0.99, 0.01, 30)
    if expected is None:
        assert step.end == MORE_EXAMPLES_NEEDED
    else:
        assert (1 - step.rule.value) ** 0.5 == pytest.approx(expected, abs=0.02)


def test_values_below_the_first_point_are_not_tried_if_no_score_could_be_shown_to_be_kept():
    """With 60 examples that are right or wrong, not even an unchanged score is shown to be kept."""
    dense = np.repeat([1.0, 0.0], 30)
    luck = np.linspace(0.05, 1, 60)

    def measure(value):
        sparsity = (1 - value) ** 0.5
        return sparsity, dense * (luck > sparsity**3), value

    curve, end = search_to_precision(dense, measure)
    assert end == MORE_EXAMPLES_NEEDED
    assert curve.p.max() == 0.97
    assert critical_sparsity(curve).low == 0.0


def test_a_model_that_is_not_shown_to_lose_is_measured_up_to_the_sparsest_value():
    dense = np.repeat([1.0, 0.0], 1000)
    curve, end = search_to_precision(dense, lambda value: (max((1 - value) ** 0.5, 1e-12), dense, value))
    assert end == SPARSEST_VALUE_REACHED
    assert curve.p.min() == 0.0


def test_the_number_of_points_is_limited():
    curve, end = search_to_precision(*noisy_model(4000, 0.02), precision=0.001, max_points=7)
    assert (end, len(curve.p)) == (POINTS_USED, 7)
