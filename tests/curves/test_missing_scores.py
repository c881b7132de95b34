"""Curves whose points were scored on different numbers of examples."""

import dataclasses

import numpy as np
import pytest
from scipy.special import stdtr

from sparsedial.curves import average_at_each_p, critical_difference, critical_sparsity
from sparsedial.curves.curve import curve_from_scores
from sparsedial.curves.paired_scores import TAIL, pair_scores, retention_intervals
from sparsedial.curves.task_average import average_retentions_at_each_p
from sparsedial.errors import SpecError

SPARSITY = np.array([0.1, 0.3, 0.5])
P = np.array([0.9, 0.7, 0.5])


def draw_matrix(seed=0, examples=120):
    random = np.random.default_rng(seed)
    dense = random.beta(4, 4, examples)
    columns = [dense * (1 - lost) + random.normal(0, 0.02, examples) for lost in (0.0, 0.01, 0.1)]
    return np.stack([dense, *columns], 1)


def make(matrix):
    return curve_from_scores(SPARSITY, P, matrix, higher_is_better=True)


def without_scores(matrix, first, point):
    """Return a copy in which a point has scored only the examples before ``first``."""
    changed = matrix.copy()
    changed[first:, 1 + point] = np.nan
    return changed


@pytest.mark.parametrize("point", range(3))
def test_each_point_is_tested_on_its_own_examples(point):
    matrix = draw_matrix()
    whole = pair_scores(make(matrix))
    few = pair_scores(make(matrix[:40]))
    partial_curve = make(without_scores(matrix, 40, point))
    partial = pair_scores(partial_curve)
    for name in ("numerator", "denominator", "numerator_variance", "denominator_variance", "covariance", "degrees"):
        expected = getattr(whole, name).copy()
        expected[point] = getattr(few, name)[point]
        if name != "degrees":
            np.testing.assert_allclose(getattr(partial, name), expected, rtol=1e-12, err_msg=name)
        assert getattr(partial, name)[point] == pytest.approx(getattr(few, name)[point], rel=1e-12)
    assert partial_curve.retention[point] == pytest.approx(make(matrix[:40]).retention[point], rel=1e-12)
    assert (whole.looks, partial.looks) == (1, 2)
    low, high = retention_intervals(dataclasses.replace(partial, looks=1))
    few_low, few_high = retention_intervals(few)
    assert (low[point], high[point]) == pytest.approx((few_low[point], few_high[point]), rel=1e-9)


def test_an_easy_block_does_not_raise_the_retention_of_the_points_that_scored_it():
    matrix = draw_matrix()
    matrix[60:] *= 2  # the added examples have twice the score
    curve = make(without_scores(matrix, 60, 2))
    assert curve.retention[1] == pytest.approx(0.99, abs=0.01)
    assert curve.retention[2] == pytest.approx(0.9, abs=0.01)
    assert curve.score[2] < curve.dense * 0.7


def test_points_without_a_score_keep_the_order_and_the_verdicts():
    matrix = draw_matrix(examples=4000)
    whole = critical_sparsity(make(matrix))
    partial = critical_sparsity(make(without_scores(without_scores(matrix, 400, 0), 400, 2)))
    assert (partial.low, partial.high) == (whole.low, whole.high)
    assert partial.estimate == pytest.approx(whole.estimate, abs=0.02)


@pytest.mark.parametrize("average", [average_at_each_p, average_retentions_at_each_p])
def test_averages_use_the_dense_scores_of_each_point(average):
    matrices = [draw_matrix(seed) for seed in range(2)]
    matrices[1][60:] *= 1.5
    partial = average([make(matrices[0]), make(without_scores(matrices[1], 60, 2))])
    expected = average([make(matrices[0]), make(matrices[1][:60])])
    assert partial.retention[2] == pytest.approx(expected.retention[2], rel=1e-12)
    assert np.isfinite(pair_scores(partial).statistic(0.99)).all()
    assert partial.select_points(np.array([2])).retention[0] == pytest.approx(partial.retention[2])


def test_differences_use_the_examples_that_both_points_have_scored():
    matrix = draw_matrix(examples=2000)
    same = critical_difference(make(matrix), make(without_scores(matrix, 500, 0)))
    assert same.low <= 0 <= same.high
    # A point that is compared with itself on a part of its examples is almost the same point.
    narrow = critical_difference(make(matrix), make(without_scores(matrix, 1999, 1)))
    assert narrow.high - narrow.low <= same.high - same.low


@pytest.mark.parametrize(("column", "value", "message"), [(0, 0.0, "expected a dense score above 0"), (2, -1.0, "-1")])
def test_scores_without_a_ratio_are_refused(column, value, message):
    matrix = without_scores(draw_matrix(), 40, 1)
    matrix[:, column] = np.where(np.isfinite(matrix[:, column]), value, np.nan)
    with pytest.raises(SpecError, match=message):
        make(matrix)


def test_added_examples_make_the_tests_stricter():
    scores = pair_scores(make(without_scores(without_scores(draw_matrix(), 60, 0), 30, 1)))
    assert scores.looks == 3
    one_look = dataclasses.replace(scores, looks=1)
    assert (np.abs(scores.statistic(0.99)) < np.abs(one_look.statistic(0.99))).all()
    error = 1 - stdtr(scores.degrees, scores.quantile)
    np.testing.assert_allclose(error, TAIL / 3, rtol=1e-6)
