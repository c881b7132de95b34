"""The adaptive search on curves that are known."""

import numpy as np
import pytest

from sparsedial.critical import critical_sparsity, curve
from sparsedial.rules import RULES
from sparsedial.study.search import MOST_POINTS, next_value

PAPER_GRID = [1.0, 0.995, 0.99, 0.985, 0.98, 0.975, 0.97, *np.arange(0.96, 0.895, -0.01).round(2),
              *np.arange(0.85, 0.55, -0.05).round(2), 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]  # fmt: skip


def model(rule, sharpness, half):
    """A smooth made-up model: sparsity grows as the dial is turned, and retention falls with sparsity."""

    def measure(value):
        turned = abs(value - RULES[rule].dense)
        sparsity = min(1.0, turned**0.5)
        return sparsity, max(0.0, 1 - (sparsity / half) ** sharpness), value

    return measure


def search(rule, measure, tolerance=0.01):
    points = []
    while True:
        value = next_value(rule, curve(points, dense=1.0) if points else None, 0.99, tolerance)
        if value is None:
            return points
        assert 0.0 <= value <= 1.0
        assert value not in [p for _, _, p in points]
        points.append(measure(value))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sharpness", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("half", [0.4, 0.7, 1.1])
def test_it_finds_what_the_papers_grid_finds_with_three_times_fewer_points(rule, sharpness, half):
    measure = model(rule, sharpness, half)
    points = search(rule, measure)
    truth = half * 0.01 ** (1 / sharpness)
    assert critical_sparsity(points, dense=1.0).value == pytest.approx(truth, abs=0.02)
    assert len(points) <= len(PAPER_GRID) / 3


def test_a_model_that_loses_nothing_is_followed_to_the_end_of_the_dial():
    points = search("top_p", lambda value: (1 - value if value < 1 else 0.001, 1.0, value))
    assert points[-1][2] == 0.0
    assert critical_sparsity(points, dense=1.0).status == "beyond"


def test_a_model_that_loses_at_once_is_given_up_in_time():
    points = search("top_p", lambda value: ((1 - value) ** 0.5, 0.1, value))
    assert len(points) <= MOST_POINTS
    assert critical_sparsity(points, dense=1.0).status == "not reached"


@pytest.mark.parametrize(("noise", "goes_on"), [(2.0, False), (0.001, True)])
def test_an_interval_wider_than_the_bracket_ends_the_search(noise, goes_on):
    """With few or noisy examples, closing in further would be pretence."""
    random = np.random.default_rng(0)
    dense = random.random(400)
    points = []
    for s, p in ((0.1, 0.97), (0.3, 0.9), (0.5, 0.8)):
        luck = random.normal(size=400)
        points.append((s, dense * (1 - max(0, s - 0.2) * 0.15) + noise * (luck - luck.mean()), p))
    measured = curve(points, dense)
    found = critical_sparsity(measured)
    assert (found.high - found.low > 0.2) == (not goes_on)
    assert (next_value("top_p", measured, 0.99, 0.01) is not None) == goes_on
