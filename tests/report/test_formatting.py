"""Names and numbers as text."""

import pandas as pd
import pytest

from sparsedial.analysis.estimates import Estimate
from sparsedial.report.formatting import format_estimate, format_number, format_parameters, sanitize_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\tb\u2028c", "a b c"),
        ("\x1b]0;t\x07", "\\x1b]0;t\\x07"),
        ("\u202egnirts", "\\u202egnirts"),
        ("\ud800", "\\ud800"),
        ("naïve – 模型", "naïve – 模型"),
    ],
)
def test_control_characters_are_spelled_out(text, expected):
    assert sanitize_text(text) == expected


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(None, 0.1, 0.2), "10.0–20.0%"),
        (Estimate(None, is_lower_bound=True), "–"),
        (Estimate(0.4, 0.3, None), "40.0%"),
        (Estimate(0.4, 0.3, 0.5, is_lower_bound=True, is_high_censored=True), "≥ 40.0% (30.0–≥50.0%)"),
    ],
)
def test_estimates_show_what_is_known(estimate, text):
    assert format_estimate(estimate) == text


@pytest.mark.parametrize(
    ("value", "text"), [(pd.NA, "–"), (float("inf"), "–"), (0, "0"), (10, "10"), (-1200, "-1,200")]
)
def test_numbers(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(("value", "text"), [(999, "999"), (1000, "1 K"), (1e9, "1 B"), (float("nan"), "")])
def test_parameters_have_a_unit(value, text):
    assert format_parameters(value) == text
