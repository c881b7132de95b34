"""The suite for rules."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from sparsedial.errors import SpecError
from sparsedial.kernels import reference
from sparsedial.rules import Rule, VectorRule, check_rule_class
from sparsedial.testing.conformance import DTYPES, bits, check_order, make_cases
from sparsedial.testing.expectation import expect
from sparsedial.testing.kernel_checks import rules_at_distances

WIDTHS = (1, 2, 33, 576)
ROWS = 5
DISTANCE_TOLERANCE = 1e-9

Bind = Callable[[Rule, int], VectorRule]


def check_rule(
    rule_class: type[Rule],
    *,
    bind: Bind | None = None,
    device: str = "cpu",
    dtypes: Sequence[torch.dtype] = DTYPES,
    widths: Sequence[int] = WIDTHS,
) -> None:
    """Check that a rule is a pure function of one vector, and that what its class declares is true.

    An `AssertionError` is raised for the first fault. These properties are checked:

    - The class is a frozen dataclass, its parameter is checked against its range, and its JSON can be read back.
    - `Rule.value_at` and `Rule.distance_from_dense` are inverse, and lead from the dense to the sparsest value.
    - The mask has the right shape, dtype and device. The magnitudes are not changed.
    - The kept set depends on one vector only: not on other vectors, their number or their order. It is deterministic.
    - At the dense value, every non-zero entry is kept and the result equals the input bit for bit.
    - The number of kept entries does not grow with the distance from the dense value.
    - Of equal entries, the lowest index is kept first, if the class declares ``keeps_lowest_index_first``.
    - Zero vectors stay zero. Vectors with a NaN or an infinity are left unchanged and do not affect other vectors.

    Args:
        rule_class: Class of the rule. It need not be registered.
        bind: Function that returns the rule for vectors of a width, for rules that define `Rule.bind`. Defaults to
            None, which means the rule itself.
        device: Device of the vectors. Defaults to "cpu".
        dtypes: Dtypes of the vectors. Defaults to all that `apply_rule` accepts.
        widths: Numbers of entries of the vectors.

    Example:
        >>> import sparsedial as sd
        >>> check_rule(sd.TopP, widths=(5,), dtypes=(torch.float32,))
    """
    _check_declaration(rule_class)
    bind = bind or _return_rule
    generator_state = torch.get_rng_state()
    try:
        torch.manual_seed(0)
        for dtype in dtypes:
            for width in widths:
                rules = [bind(rule, width) for rule in rules_at_distances(rule_class)]
                for x in _make_inputs(width, dtype, device):
                    _check_rules(rules, rule_class, x)
    finally:
        torch.set_rng_state(generator_state)


def _return_rule(rule: Rule, _: int) -> VectorRule:
    return rule


def _make_inputs(width: int, dtype: torch.dtype, device: str) -> Iterator[torch.Tensor]:
    for name, x in make_cases(width, ROWS, dtype):
        if name == "large" and dtype == torch.float64:
            continue  # a sum overflows float64, so a definition can have no answer
        yield x.to(device)


def _check_declaration(rule_class: Any) -> None:
    """Check the class, its parameter, its JSON and the distances of its values."""
    try:
        check_rule_class(rule_class)
    except SpecError as error:
        raise AssertionError(str(error)) from error
    low, high = sorted((rule_class.dense_value, rule_class.sparsest_value))
    for wrong_value in (low - 0.5, high + 0.5, math.nan, math.inf, "0.5", None, True):
        _check_refused(rule_class, wrong_value)
    previous = -math.inf
    for rule in rules_at_distances(rule_class):
        _check_json(rule)
        _check_frozen(rule)
        distance = rule_class.distance_from_dense(rule.value)
        expect(distance > previous, f"{rule}: distance_from_dense gives {distance}, not more than at a denser value")
        previous = distance
        expect(
            abs(rule_class.value_at(distance) - rule.value) <= DISTANCE_TOLERANCE * max(1.0, abs(rule.value)),
            f"{rule}: value_at(distance_from_dense(value)) is {rule_class.value_at(distance)}",
        )
    for distance, value in ((0.0, rule_class.dense_value), (1.0, rule_class.sparsest_value)):
        expect(rule_class.value_at(distance) == value, f"{rule_class.__name__}: value_at({distance}) is not {value}")


def _check_refused(rule_class: Any, value: object) -> None:
    try:
        rule = rule_class(value)
    except SpecError:
        return
    raise AssertionError(f"{rule!r}: no SpecError for the value {value!r}. Call Rule.__post_init__ in __post_init__.")


def _check_json(rule: Rule) -> None:
    data = json.loads(json.dumps(rule.to_json(), allow_nan=False))
    expect(data["value"] == rule.value, f"{rule}: to_json has the value {data['value']!r}, expected {rule.value!r}")
    read: Rule = type(rule)(data["value"], **data.get("options", {}))  # type: ignore[call-arg]  # fields of subclasses
    expect(read == rule, f"{rule}: its JSON gives another rule, {read}")
    expect(hash(read) == hash(rule), f"{rule}: two equal rules have different hashes")


def _check_frozen(rule: Rule) -> None:
    try:
        setattr(rule, rule.parameter_name(), rule.value)
    except dataclasses.FrozenInstanceError:
        return
    raise AssertionError(f"{rule}: its fields can be changed. Use @dataclass(frozen=True).")


def _check_rules(rules: Sequence[VectorRule], rule_class: type[Rule], x: torch.Tensor) -> None:
    """Check rules whose distance from the dense value increases."""
    previous: torch.Tensor | None = None
    for rule in rules:
        y, kept = reference.select(x, rule)
        _check_mask(rule, x)
        _check_vectors_are_independent(rule, x, y)
        for vector, result, count in zip(x, y, kept.tolist(), strict=True):
            if not torch.isfinite(vector).all():
                expect(count == -1 and torch.equal(bits(vector), bits(result)), f"{rule}: a vector with NaN changed")
            elif rule_class.keeps_lowest_index_first:
                check_order(vector, result, rule)
        if previous is None:
            is_dense = torch.equal(y.nan_to_num(), x.nan_to_num())
            expect(is_dense, f"{rule}: the dense value drops an entry of {x}.{_explain_squares(x)}")
        else:
            is_sparser = bool((kept <= previous).all())
            message = f"{rule}: keeps more entries of {x} than at a value closer to the dense value."
            expect(is_sparser, message + _explain_squares(x))
        previous = kept


def _explain_squares(x: torch.Tensor) -> str:
    """Return what to do if a rule that squares the magnitudes fails for these vectors, or an empty text."""
    magnitudes = x[x.isfinite() & (x != 0)].abs().double()
    squares = magnitudes.square()
    if ((squares > 0) & squares.isfinite()).all():
        return ""
    return (
        f" Magnitudes from {magnitudes.min():.1e} to {magnitudes.max():.1e} have squares that are 0 or infinite in "
        "float64. If the rule squares magnitudes, divide each vector by its maximum first."
    )


def _check_mask(rule: VectorRule, x: torch.Tensor) -> None:
    magnitudes = x.abs().double().nan_to_num(0.0, 0.0)
    original = magnitudes.clone()
    mask = rule.keep_mask(magnitudes)
    expect(torch.equal(magnitudes, original), f"{rule}: keep_mask changes its argument")
    expect(mask.dtype == torch.bool, f"{rule}: the mask is {mask.dtype}, expected torch.bool")
    expect(mask.shape == magnitudes.shape, f"{rule}: the mask has the shape {tuple(mask.shape)}")
    expect(mask.device == magnitudes.device, f"{rule}: the mask is on {mask.device}, not on {magnitudes.device}")
    expect(torch.equal(mask, rule.keep_mask(magnitudes)), f"{rule}: a second call keeps other entries")
    expect(torch.equal(mask, copy.deepcopy(rule).keep_mask(magnitudes)), f"{rule}: a copy keeps other entries")


def _check_vectors_are_independent(rule: VectorRule, x: torch.Tensor, y: torch.Tensor) -> None:
    """Check that each vector has the same kept set alone, in another order, and among more vectors."""
    alone = torch.cat([reference.select(row, rule)[0] for row in x.split(1)])
    expect(torch.equal(bits(alone), bits(y)), f"{rule}: a vector alone keeps other entries than among others")
    reverse = reference.select(x.flip(0), rule)[0].flip(0)
    expect(torch.equal(bits(reverse), bits(y)), f"{rule}: another order of the vectors keeps other entries")
    more = reference.select(torch.cat([x * 0.5, x, x * 2]), rule)[0][len(x) : 2 * len(x)]
    expect(torch.equal(bits(more), bits(y)), f"{rule}: a vector among more vectors keeps other entries")
