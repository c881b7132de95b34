"""Rules: their parameters, their errors, and their JSON."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.kernels.dispatch import BUILTIN_RULES
from sparsedial.rules import RULES, make_rule, rule_from_json


@pytest.mark.parametrize("name", RULES)
@given(value=st.floats(0, 1))
def test_json_round_trip_is_exact(name, value):
    rule = make_rule(name, value)
    assert rule_from_json(json.loads(json.dumps(rule.to_json()))) == rule
    assert rule.value == value


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True])
def test_a_parameter_must_be_a_number_in_0_1(name, value):
    with pytest.raises(SpecError, match=r"expected a number in \[0, 1\]"):
        make_rule(name, value)


def test_unknown_names_and_versions_name_the_known_ones():
    with pytest.raises(SpecError, match="top_p, top_k, max_p"):
        make_rule("top-p", 0.5)
    with pytest.raises(SpecError, match="version 2, expected 1"):
        rule_from_json({"rule": "top_p", "value": 0.5, "version": 2})


def test_rules_cannot_be_changed():
    with pytest.raises(AttributeError):
        sd.TopP(0.5).p = 0.6


def test_a_parameter_may_be_a_number_of_numpy():
    assert sd.TopP(np.float64(0.5)) == sd.TopP(0.5) == sd.TopP(np.float32(0.5))
    assert type(sd.TopP(np.float32(0.5)).p) is float


@given(st.floats(0, 1), st.integers(0, 5000))
def test_top_k_rounds_its_count_to_the_nearest(fraction, width):
    assert abs(sd.TopK(fraction).count(width) - fraction * width) <= 0.5 + 1e-9


@pytest.mark.parametrize("name", [rule_class.name for rule_class in BUILTIN_RULES])
def test_the_dense_value_keeps_every_nonzero_entry(name):
    x = torch.randn(4, 50)
    y, _ = sd.apply_rule(x, make_rule(name, RULES[name].dense_value))
    assert torch.equal(y, x)
