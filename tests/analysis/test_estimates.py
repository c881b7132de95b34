"""Estimates with their intervals."""

import pandas as pd
import pytest

from sparsedial.analysis.estimates import Estimate, finite_number, is_true, read_estimate


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), pd.NA, pd.NaT, "text", [1]])
def test_missing_values_are_no_numbers(value):
    assert finite_number(value) is None
    assert not is_true(value)


def test_cells_of_any_type_can_be_true():
    assert is_true(True) and is_true(1.0) and not is_true(False) and not is_true(0)


def test_the_width_is_that_of_a_complete_interval():
    assert Estimate(0.4, 0.3, 0.5).width == pytest.approx(0.2)
    assert Estimate(0.4, 0.3, None).width is None


@pytest.mark.parametrize(
    ("other", "can_reach"),
    [
        (Estimate(0.3, 0.25, 0.36), True),
        (Estimate(0.3, 0.25, 0.35), True),
        (Estimate(0.3, 0.25, 0.34), False),
        (Estimate(0.3), False),
        (Estimate(0.3, is_lower_bound=True), True),
    ],
)
def test_an_estimate_can_reach_a_higher_one_if_the_intervals_meet(other, can_reach):
    assert other.can_reach(Estimate(0.4, 0.35, 0.45)) is can_reach


def test_an_estimate_is_read_with_its_censoring():
    row = {"sparsity": 0.4, "low": 0.3, "high": pd.NA, "status": "right-censored", "high_censored": True}
    assert read_estimate(row, "sparsity", "low", "high") == Estimate(0.4, 0.3, None, True, True)
