"""The difference of two retentions at the same sparsity, and how often its interval contains the truth."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from sparsedial.curves import make_curve
from sparsedial.curves.curve import average_at_each_p
from sparsedial.curves.matched_sparsity import interpolation_error, retention_difference
from sparsedial.errors import SpecError


def make_scores(seed, examples=80, lost=(0.0, 0.0)):
    """Return dense scores and those of two models that lose a share of each."""
    generator = np.random.default_rng(seed)
    dense = generator.beta(5, 4, examples)
    sparse = [dense * (1 - share) + 0.03 * generator.standard_normal(examples) for share in lost]
    return dense, np.maximum(sparse, 0.0)


def test_scores_are_interpolated_between_the_neighbors_and_the_dense_model():
    dense = np.array([0.4, 0.8])
    first = make_curve([(0.2, dense * 0.9), (0.6, dense * 0.5)], dense)
    second = make_curve([(0.8, dense * 0.2)], dense)
    for sparsity, expected in ((0.1, 0.95 - 0.9), (0.2, 0.9 - 0.8), (0.5, 0.6 - 0.5), (0.0, 0.0)):
        difference = retention_difference(first, second, sparsity)
        assert difference.estimate == pytest.approx(expected)
        assert difference.low - 1e-12 <= expected <= difference.high + 1e-12
    assert retention_difference(first, second, 0.7) is None


def test_the_interval_contains_what_a_straight_line_between_distant_points_misses():
    dense = np.full(20, 0.5)
    measured = {step: dense * (1 - step**3) for step in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)}
    fine = make_curve(list(measured.items()), dense)
    coarse = make_curve([(step, measured[step]) for step in (0.2, 0.4, 0.8)], dense)
    for sparsity in (0.1, 0.3, 0.5, 0.6):
        difference = retention_difference(fine, coarse, sparsity)
        assert difference.estimate > 0.002
        assert difference.low <= 1e-12
    at_point = retention_difference(fine, coarse, 0.4)
    assert at_point.low == pytest.approx(0.0) and at_point.high == pytest.approx(0.0)


def test_points_of_equal_sparsity_bound_nothing():
    dense = np.array([0.5, 0.6])
    curve = make_curve([(0.2, dense * 0.99), (0.2, dense * 0.98), (0.4, dense * 0.9)], dense)
    assert interpolation_error(curve, 0.3) == pytest.approx(0.04)


def test_the_interval_is_that_of_a_paired_t_test_if_all_dense_scores_are_equal():
    generator = np.random.default_rng(0)
    dense = np.full(30, 0.5)
    scores = 0.4 + 0.05 * generator.standard_normal((2, 30))
    first, second = (make_curve([(0.3, row)], dense) for row in scores)
    difference = retention_difference(first, second, 0.3)
    interval = ttest_rel(scores[0], scores[1]).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((interval.low / 0.5, interval.high / 0.5))


def test_the_interval_contains_the_truth():
    hits = 0
    for seed in range(400):
        dense, (one, other) = make_scores(seed, lost=(0.02, 0.05))
        difference = retention_difference(make_curve([(0.3, one)], dense), make_curve([(0.3, other)], dense), 0.3)
        hits += difference.low <= 0.03 <= difference.high
    assert 0.925 * 400 <= hits <= 0.98 * 400


def test_the_difference_changes_its_sign_with_the_order():
    dense, (one, other) = make_scores(1, lost=(0.02, 0.05))
    curves = [make_curve([(0.3, row)], dense) for row in (one, other)]
    difference = retention_difference(curves[0], curves[1], 0.2)
    reverse = retention_difference(curves[1], curves[0], 0.2)
    assert (difference.low, difference.high) == pytest.approx((-reverse.high, -reverse.low))


def test_averages_and_lower_scores_are_refused():
    dense, (one, _) = make_scores(2)
    curve = make_curve([(0.3, one, 0.9)], dense)
    lower = make_curve([(0.3, one)], dense, higher_is_better=False)
    for wrong in (average_at_each_p([curve, curve]), lower):
        with pytest.raises(SpecError, match="one task"):
            retention_difference(curve, wrong, 0.2)


def test_without_scores_of_examples_there_is_no_difference():
    curve = make_curve([(0.3, 0.5)], 0.6)
    assert retention_difference(curve, curve, 0.2) is None
