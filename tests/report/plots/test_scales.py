"""Ticks are round numbers inside of the scale, and no more than asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedial.report.plots.scales import Scale, integer_ticks, linear_ticks


@given(low=st.floats(-1, 1), extent=st.floats(1e-3, 5), count=st.integers(2, 9))
def test_linear_ticks_lie_on_the_scale_and_are_not_too_many(low, extent, count):
    high = low + extent
    ticks = linear_ticks(low, high, count)
    assert len(ticks) <= count
    assert all(low - 1e-6 <= tick <= high + 1e-6 for tick in ticks)
    assert ticks == sorted(set(ticks))


@given(low=st.floats(1, 1e9), factor=st.floats(1.1, 1e4), count=st.integers(2, 6))
def test_logarithmic_ticks_lie_on_the_scale(low, factor, count):
    scale = Scale(low, low * factor, 0.0, 100.0, is_log=True)
    ticks = scale.ticks(count)
    assert 1 <= len(ticks) <= count
    assert all(map(scale.contains, ticks))


def test_a_scale_maps_both_ends():
    for is_log in (False, True):
        scale = Scale(1.0, 100.0, 10.0, 210.0, is_log)
        assert (scale(1.0), scale(100.0)) == (10.0, 210.0)
    assert Scale(1.0, 100.0, 0.0, 100.0, is_log=True)(10.0) == pytest.approx(50.0)


def test_ticks_of_layers_are_whole_numbers():
    assert integer_ticks(0, 3, 7) == [0, 1, 2, 3]
    assert integer_ticks(0, 29, 7) == [0, 5, 10, 15, 20, 25]
    assert integer_ticks(4, 4, 7) == [4]
