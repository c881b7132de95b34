"""The adaptive search on known curves."""

import numpy as np
import pytest

from sparsedial.curves.critical import critical_sparsity
from sparsedial.curves.curve import make_curve
from sparsedial.rules import RULES
from sparsedial.study.adaptive_search import MAX_POINTS, next_rule

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
        step = next_rule(rule, make_curve(points, dense=1.0) if points else None, 0.99, tolerance)
        if step is None:
            return points
        value = step.value
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


def test_a_model_that_loses_nothing_is_measured_up_to_the_sparsest_value():
    points = search("top_p", lambda value: (1 - value if value < 1 else 0.001, 1.0, value))
    assert points[-1][2] == 0.0
    assert critical_sparsity(points, dense=1.0).status == "right-censored"


def test_a_model_that_loses_immediately_ends_the_search():
    points = search("top_p", lambda value: ((1 - value) ** 0.5, 0.1, value))
    assert len(points) <= MAX_POINTS
    assert critical_sparsity(points, dense=1.0).status == "left-censored"


@pytest.mark.parametrize(("noise", "continues"), [(2.0, False), (0.001, True)])
def test_an_interval_wider_than_the_bracket_ends_the_search(noise, continues):
    """With few or noisy examples, further points would not make the result more precise."""
    random = np.random.default_rng(0)
    dense = random.random(400)
    points = []
    for s, p in ((0.1, 0.97), (0.3, 0.9), (0.5, 0.8)):
        jitter = random.normal(size=400)
        points.append((s, dense * (1 - max(0, s - 0.2) * 0.15) + noise * (jitter - jitter.mean()), p))
    measured = make_curve(points, dense)
    critical = critical_sparsity(measured)
    assert (critical.high - critical.low > 0.2) == (not continues)
    assert (next_rule("top_p", measured, 0.99, 0.01) is not None) == continues
