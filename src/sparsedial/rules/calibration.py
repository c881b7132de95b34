"""Calibrations: numbers that a rule has computed from a model before it is applied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, Protocol

from sparsedial.errors import SpecError


@dataclass(frozen=True)
class Calibration:
    """Numbers that a rule needs in addition to a vector, such as one threshold for each layer.

    Attributes:
        values: Plain JSON: dictionaries with text keys, lists, text, finite numbers, booleans and None.

    Example:
        >>> Calibration({"thresholds": [0.1, 0.25]}).digest[:8]
        '2d71d2f8'
    """

    values: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the values, in hexadecimal. It is part of the key of a trial."""
        text = json.dumps(dict(self.values), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


SAMPLES = "samples"
"""Name of the calibration data that are sampled from the model."""

DEFAULT_TOKENS = 1024
"""Number of tokens of the calibration data."""

MIN_TOKENS = 64
"""Smallest number of tokens from which a vector is calibrated."""


class CalibratedRule(Protocol):
    """A rule that is calibrated on vectors, as `find_entry` and `sparsedial.calibrate` use it.

    Attributes:
        name: Name of the rule.
        data: Name of the task whose examples are the calibration data, or `SAMPLES`.
        tokens: Number of tokens of the calibration data.
    """

    @property
    def name(self) -> str:
        """Name of the rule."""
        ...

    @property
    def data(self) -> str:
        """Name of the data."""
        ...

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        ...


def check_calibration_data(rule: CalibratedRule) -> None:
    """Check the fields that describe the calibration data of a rule.

    Args:
        rule: The rule.

    Raises:
        SpecError: The name of the data is no text, or there are too few tokens.
    """
    name = type(rule).__name__
    if not isinstance(rule.data, str) or not rule.data:
        raise SpecError(f"{name}(data={rule.data!r}): expected {SAMPLES!r} or the name of a task")
    if not isinstance(rule.tokens, Integral) or rule.tokens < MIN_TOKENS:
        raise SpecError(
            f"{name}(tokens={rule.tokens!r}): expected a whole number of calibration tokens, at least {MIN_TOKENS}"
        )


def find_entry(calibration: Calibration | None, rule: CalibratedRule, ffn: Any, vector: str) -> Mapping[str, Any]:
    """Return what `Rule.calibrate_vector` computed for one vector of one FFN, after checking that it belongs to it.

    Args:
        calibration: Calibration that `sparsedial.calibrate` returned.
        rule: The rule.
        ffn: The FFN.
        vector: Name of the vector.

    Raises:
        SpecError: The calibration belongs to another rule, model, layer or site, or to other data.
    """
    values: Mapping[str, Any] = {} if calibration is None else calibration.values
    origin = {"rule": values.get("rule"), "data": values.get("data"), "tokens": values.get("tokens")}
    expected = {"rule": rule.name, "data": rule.data, "tokens": rule.tokens}
    advice = "Calibrate the rule for this model, these layers and this site: sparsedial.calibrate."
    if origin != expected:
        raise SpecError(f"calibration: it was made for {origin}, expected {expected}. {advice}")
    entry = values["ffns"].get(ffn.name)
    if entry is None or vector not in entry["vectors"]:
        raise SpecError(
            f"calibration: it has no numbers for the vector {vector!r} of {ffn.name}. It was made for the site "
            f"{values['site']!r} and {len(values['ffns'])} FFNs. {advice}"
        )
    if entry["fingerprint"] != ffn.fingerprint:
        raise SpecError(
            f"calibration: it belongs to another model or another state of the model, because the weights of "
            f"{ffn.name} differ. {advice}"
        )
    numbers: Mapping[str, Any] = entry["vectors"][vector]
    return numbers


def stacked_reason(ffn: Any) -> str | None:
    """Return why a rule that differs between FFNs is not defined for an FFN, or None if it is.

    Args:
        ffn: The FFN.
    """
    if ffn.stacked_module is None:
        return None
    return "the experts of the layer are stacked in one parameter and sparsified together, with one rule"
