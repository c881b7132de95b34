"""Estimates with their intervals."""

import pandas as pd
import pytest

from sparsedial.analysis.estimates import Estimate, choose_answer, finite_number, is_true, read_estimate


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), pd.NA, pd.NaT, "text", [1]])
def test_missing_values_are_no_numbers(value):
    assert finite_number(value) is None
    assert not is_true(value)


def test_cells_of_any_type_can_be_true():
    assert is_true(True) and is_true(1.0) and not is_true(False) and not is_true(0)


@pytest.mark.parametrize(
    ("estimate", "is_wide", "answer"),
    [
        (Estimate(0.2, 0.18, 0.21), False, "estimate"),
        (Estimate(0.2), True, "estimate"),  # without an interval there is nothing else
        (Estimate(0.3, 0.18, 0.4), True, "at least"),
        (Estimate(None, 0.18, 0.21), False, "at least"),
        (Estimate(0.98, 0.96, 0.98, True, True), False, "at least"),  # an interval without an upper end
        (Estimate(0.3, 0.0, 0.4), True, "undecided"),
        (Estimate(0.01, 0.0, 0.02), False, "undecided"),
        (Estimate(None, 0.0, 0.78), True, "undecided"),
    ],
)
def test_the_answer_is_the_number_that_the_data_support(estimate, is_wide, answer):
    assert choose_answer(estimate, is_wide) == answer


def test_an_estimate_is_read_with_its_censoring():
    row = {"sparsity": 0.4, "low": 0.3, "high": pd.NA, "status": "right-censored", "high_censored": True}
    assert read_estimate(row, "sparsity", "low", "high") == Estimate(0.4, 0.3, None, True, True)
