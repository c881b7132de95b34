"""Retention, and its comparison with the required share: exact for counts."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sparsedial as sd
from sparsedial.curves import (
    average_at_each_p,
    compute_retention,
    is_kept,
    make_curve,
    pair_scores,
    retention_intervals,
)
from sparsedial.curves.retention import MAX_RETENTION
from sparsedial.errors import SpecError
from sparsedial.study.adaptive_search import next_step

COUNTS = st.integers(1, 10**6)


@given(COUNTS, st.integers(0, 10**6), COUNTS, st.integers(1, 100))
@example(500, 495, 600, 99)
@example(300, 297, 700, 99)
def test_counts_are_compared_exactly(dense, sparse, examples, percent):
    retention = compute_retention(dense / examples, np.array([sparse / examples]))
    assert is_kept(retention, percent / 100).tolist() == [100 * sparse >= percent * dense]


@given(COUNTS, COUNTS, COUNTS)
def test_counts_of_errors_are_compared_exactly(dense, sparse, examples):
    retention = compute_retention(dense / examples, np.array([sparse / examples]), higher_is_better=False)
    assert is_kept(retention, 0.99).tolist() == [100 * dense >= 99 * sparse]


@given(st.integers(1, 400), st.integers(1, 30), st.integers(0, 4))
@example(6, 1, 0)
def test_exactly_99_percent_of_the_right_answers_are_kept(hundreds, share, lost):
    """The scores are those of examples, of which 100 * share are right for the dense model."""
    wrong = np.zeros(hundreds)
    dense = np.concatenate([np.ones(100 * share), wrong])
    sparse = dense.copy()
    sparse[: share + lost] = 0.0
    status = sd.critical_sparsity([(0.3, sparse)], dense=dense).status
    assert status == ("left-censored" if lost else "right-censored")


def scores_of(right, total):
    return np.repeat([1.0, 0.0], [right, total - right])


def test_every_use_of_the_threshold_reads_495_of_500_as_kept():
    dense = scores_of(500, 600)
    points = [(0.2, scores_of(500, 600), 0.9), (0.4, scores_of(495, 600), 0.8), (0.6, scores_of(100, 600), 0.7)]
    curve = make_curve(points, dense)
    critical = sd.critical_sparsity(curve)
    assert critical.value == critical.first_crossing == 0.4
    average = average_at_each_p([curve, curve, curve])
    assert sd.critical_sparsity(average).value == pytest.approx(0.4, abs=1e-12)
    last = make_curve([(s, scores_of(495, 600), p) for s, p in ((0.1, 0.97), (0.2, 0.9), (0.4, 0.8))], dense)
    assert next_step("top_p", last, 0.99, 0.01).rule.value < 0.8  # the search moves on to higher sparsity


def test_a_metric_of_which_lower_is_better_has_the_inverse_ratio():
    losses = [(0.2, 2.0, 0.9), (0.4, 2.5, 0.8)]
    curve = make_curve(losses, dense=2.0, higher_is_better=False)
    np.testing.assert_allclose(curve.retention, [1.0, 0.8])
    critical = sd.critical_sparsity(losses, dense=2.0, higher_is_better=False)
    assert critical.status == "crossed" and critical.value == pytest.approx(0.2 + 0.2 * 0.01 / 0.2)
    assert sd.critical_sparsity(losses, dense=2.0).status == "right-censored"  # the direction matters


def test_the_interval_has_the_direction_of_the_curve():
    random = np.random.default_rng(0)
    dense = random.uniform(1.0, 3.0, 200)
    noise = random.normal(size=200)
    rising = make_curve([(0.3, dense * 1.002 + 0.001 * noise), (0.6, dense * 2)], dense, higher_is_better=False)
    low, high = retention_intervals(pair_scores(rising))
    np.testing.assert_allclose((low + high) / 2, [1 / 1.002, 0.5], atol=0.02)
    critical = sd.critical_sparsity(rising)
    assert (critical.low, critical.high) == (0.3, 0.6)


def test_a_score_of_0_keeps_everything_if_lower_is_better():
    assert compute_retention(0.1, np.array([0.0]), higher_is_better=False).tolist() == [MAX_RETENTION]
    critical = sd.critical_sparsity([(0.3, 0.0), (0.5, 0.4)], dense=0.1, higher_is_better=False)
    assert 0.3 < critical.value <= 0.5


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize(("dense", "sparse"), [(-2.0, -3.0), (2.0, -1.0)])
def test_negative_scores_are_refused_with_what_to_do(dense, sparse, higher_is_better):
    example = r"exp\(log-likelihood\)" if higher_is_better else "the negative log-likelihood"
    with pytest.raises(SpecError, match=f"expected scores of at least 0.*{example} in place of a log-likelihood"):
        sd.critical_sparsity([(0.3, sparse)], dense=dense, higher_is_better=higher_is_better)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_dense_score_of_0_is_refused(higher_is_better):
    with pytest.raises(SpecError, match="expected a dense score above 0"):
        sd.critical_sparsity([(0.3, 0.5)], dense=0.0, higher_is_better=higher_is_better)
