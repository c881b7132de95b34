"""Rules that are not built in: what their classes declare, their JSON, and the check of their masks."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.rules import Calibration, RecordedRule, Rule, make_rule, recorded_rule_from_json, rule_from_json
from tests.support.custom_rules import AboveMean, CalibratedThreshold, ColumnTopK

pytestmark = pytest.mark.usefixtures("registrations")


FROZEN = dataclass(frozen=True)


def define_rule(decorate=FROZEN, base=Rule, **attributes):
    """Return a new rule class."""
    namespace = {
        "__annotations__": {"p": "float"}, "name": "own", "keep_mask": lambda self, magnitudes: magnitudes > 0,
        "__module__": __name__, **attributes,
    }  # fmt: skip
    return decorate(type("Own", (base,), namespace))


@pytest.mark.parametrize(
    ("rule_class", "message"),
    [
        (define_rule(decorate=lambda rule_class: rule_class), "on the line below @register_rule"),
        (define_rule(decorate=lambda rule_class: rule_class, base=AboveMean), "on the line below @register_rule"),
        (define_rule(__annotations__={}), "it has no field"),
        (define_rule(keep_mask=Rule.keep_mask), "it defines neither keep_mask nor bind"),
        (define_rule(dense_value=0.0), "expected two different finite numbers"),
        (define_rule(sparsest_value=float("inf")), "expected two different finite numbers"),
        (define_rule(version=0), "version 0: expected a whole number"),
        (define_rule(version="2"), "version '2': expected a whole number"),
        (define_rule(needs_calibration=True), "does not define calibrate"),
        (define_rule(__annotations__={"p": "float", "k": "int"}), "the field 'k' has no default"),
        (define_rule(name=None), "name None: expected text"),
        (int, "expected a subclass of sparsedial.Rule, got <class 'int'>"),
        (AboveMean(1.0), "expected a subclass of sparsedial.Rule"),
    ],
)
def test_what_a_rule_declares_is_checked(rule_class, message):
    with pytest.raises(SpecError) as error:
        sd.register_rule(rule_class)
    assert message in str(error.value)


def test_further_fields_are_in_the_json():
    sd.register_rule(AboveMean)
    rule = AboveMean(2, offset=0.5)
    data = json.loads(json.dumps(rule.to_json()))
    assert data == {"rule": "above_mean", "value": 2.0, "version": 1, "options": {"offset": 0.5}}
    assert rule_from_json(data) == rule == make_rule("above_mean", 2, {"offset": 0.5})
    assert "options" not in sd.TopP(0.5).to_json()


def test_a_rule_of_another_version_can_be_read_but_not_made():
    sd.register_rule(AboveMean)
    data = {**AboveMean(2).to_json(), "version": 7}
    with pytest.raises(SpecError, match="version 7, expected 1"):
        rule_from_json(data)
    assert recorded_rule_from_json(data).to_json() == data
    assert isinstance(recorded_rule_from_json({"rule": "gone", "value": 1, "version": 1}), RecordedRule)
    assert recorded_rule_from_json(data) == recorded_rule_from_json(json.loads(json.dumps(data)))


def test_distances_are_linear_between_the_ends_of_the_range():
    assert [sd.TopP.value_at(distance) for distance in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    assert [AboveMean.value_at(distance) for distance in (0.0, 0.25, 1.0)] == [0.0, 1.0, 4.0]
    assert [AboveMean.distance_from_dense(value) for value in (0.0, 1.0, 4.0)] == [0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    "mask",
    [lambda x: x, lambda x: (x > 0)[..., :1], lambda x: (x > 0).sum(), lambda x: None],
    ids=["floats", "shape", "scalar", "nothing"],
)
def test_a_mask_is_checked(mask):
    rule = define_rule(keep_mask=lambda self, magnitudes: mask(magnitudes))(0.5)
    with pytest.raises(SpecError, match=r"keep_mask returned .*, expected a boolean tensor"):
        sd.apply_rule(torch.randn(2, 5), rule)


def test_a_rule_never_sees_a_vector_that_is_not_finite():
    seen = []

    @dataclass(frozen=True)
    class Watching(Rule):
        p: float
        name: ClassVar[str] = "watching"

        def keep_mask(self, magnitudes):
            seen.append(magnitudes)
            return magnitudes > 1

    x = torch.tensor([[1.0, float("nan"), 3.0], [3.0, 0.5, -2.0]], dtype=torch.bfloat16)
    y, kept = sd.apply_rule(x, Watching(0.5))
    assert seen[0].tolist() == [[0.0, 0.0, 0.0], [3.0, 0.5, 2.0]] and seen[0].dtype == torch.float64
    assert kept.tolist() == [-1, 2]
    assert y[1].tolist() == [3.0, 0.0, -2.0] and y[0, 1].isnan()


def test_a_rule_that_is_bound_to_an_ffn_cannot_be_applied_to_a_tensor_alone():
    for rule in (ColumnTopK(0.5), CalibratedThreshold(0.5)):
        with pytest.raises(SpecError, match=r"does not define keep_mask.*is applied with sparsify"):
            sd.apply_rule(torch.randn(3), rule)


def test_a_calibration_has_a_digest_of_its_values():
    first = Calibration({"a": [0.1, 2], "b": None})
    assert first.digest == Calibration({"b": None, "a": [0.1, 2]}).digest
    assert first.digest != Calibration({"a": [0.1, 3], "b": None}).digest
    with pytest.raises(ValueError):
        _ = Calibration({"a": float("nan")}).digest
