"""Experts that differ from the others of their layer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedial.analysis.expert_outliers import robust_z


@given(st.lists(st.floats(0.0, 1.0), min_size=5, max_size=30), st.floats(0.1, 10), st.floats(-5, 5))
def test_how_far_out_an_expert_lies_does_not_depend_on_level_or_scale(values, scale, shift):
    values = np.round(values, 3)
    moved = robust_z(values * scale + shift)
    assert moved == pytest.approx(robust_z(values), abs=1e-5, rel=1e-5)


def test_nothing_is_an_outlier_where_nothing_can_be_said():
    assert robust_z(np.array([0.1, 0.1, 0.1, 0.9])).tolist() == [0, 0, 0, 0]  # too few
    assert robust_z(np.array([0.1] * 5 + [0.9])).tolist() == [0] * 6  # no spread
    z = robust_z(np.array([0.1, 0.2, np.nan, 0.3, 0.4, 0.5]))
    assert z[2] == 0 and z[3] == 0
