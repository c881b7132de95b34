"""The paired bootstrap."""

import numpy as np

from sparsedial.curves import make_curve, resample_retention


def test_dense_and_sparse_are_resampled_together():
    """Examples that are right are right everywhere, so retention is 1 in every resample."""
    right = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    assert (resample_retention(make_curve([(0.3, right), (0.6, right)], right)) == 1.0).all()


def test_resamples_without_a_dense_score_are_dropped():
    right = np.array([1.0, 0.0, 0.0])
    curve = make_curve([(0.3, right)], right)
    every = resample_retention(curve, resamples=100, drop_undefined=False)
    assert every.shape == (100, 1)
    assert 0 < np.isnan(every).sum() < 100
    np.testing.assert_array_equal(resample_retention(curve, resamples=100), every[~np.isnan(every).any(1)])


def test_curves_of_equally_many_examples_are_resampled_in_the_same_way():
    random = np.random.default_rng(0)
    dense = random.random(50)
    scores = random.random(50)
    small = resample_retention(make_curve([(0.2, scores)], dense), resamples=20)
    large = resample_retention(make_curve([(0.7, scores)], dense), resamples=20)
    np.testing.assert_array_equal(small, large)
