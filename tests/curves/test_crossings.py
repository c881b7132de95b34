"""Crossings of several curves at once."""

import numpy as np

from sparsedial.curves.crossings import find_crossings


def test_by_hand():
    sparsity = np.array([0.2, 0.4, 0.6])
    retention = np.array(
        [
            [1.0, 0.98, 0.9],  # crosses once
            [0.98, 1.0, 0.98],  # crosses three times
            [1.0, 1.0, 1.0],  # is kept to the end
            [0.5, 0.4, 0.3],  # is lost before the first point
        ]
    )
    crossings = find_crossings(sparsity, retention, 0.99)
    np.testing.assert_allclose(crossings.highest, [0.3, 0.5, 0.6, 0.004])
    np.testing.assert_allclose(crossings.first, [0.3, 0.1, 0.6, 0.004])
    assert crossings.last_kept.tolist() == [1, 2, 3, 0]
    assert crossings.is_right_censored.tolist() == [False, False, True, False]
    assert crossings.keeps_at_no_point.tolist() == [False, False, False, True]
