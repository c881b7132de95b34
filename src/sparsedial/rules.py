"""Rules: which entries of one token's activation vector are kept.

A rule sees one vector at a time (the last dimension of a tensor); tokens never compete.
Each rule here is a definition and nothing more: `sparsedial.kernels` computes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from sparsedial.errors import SpecError

RULE_VERSION = 1  # part of every rule's JSON; raised when a definition changes the kept sets


def _fraction(rule: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SpecError(f"{rule}({name}={value!r}): expected a number in [0, 1]")
    number = float(value)
    if not 0.0 <= number <= 1.0:  # also catches NaN
        raise SpecError(f"{rule}({name}={value!r}): expected a number in [0, 1]")
    return number


@dataclass(frozen=True)
class Rule:
    """Abstract: one number in [0, 1], the dial, and a name; the concrete rules say what it means."""

    name: ClassVar[str]
    dense: ClassVar[float]
    """The dial's value at which a model's output is the dense one, bit for bit."""

    @property
    def value(self) -> float:
        """The dial's value, whatever the rule calls it."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `rule_from_json` reads back.

        >>> TopP(0.9).to_json()
        {'rule': 'top_p', 'value': 0.9, 'version': 1}
        """
        return {"rule": self.name, "value": self.value, "version": RULE_VERSION}


@dataclass(frozen=True)
class TopP(Rule):
    """Keep the fewest entries, largest magnitude first, whose L1 norm reaches ``p * ||v||_1``.

    Ties: lowest index first, never one more than needed. A zero vector keeps none; ``p = 0`` keeps
    none; ``p = 1`` keeps every non-zero entry. (arXiv 2509.00454, section 3: top-p.)

    >>> import torch, sparsedial as sd
    >>> sd.apply_rule(torch.tensor([4.0, -3.0, 2.0, 1.0]), TopP(0.7))
    (tensor([ 4., -3.,  0.,  0.]), tensor(2, dtype=torch.int32))
    """

    p: float
    name: ClassVar[str] = "top_p"
    dense: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", _fraction("TopP", "p", self.p))

    @property
    def value(self) -> float:
        return self.p


@dataclass(frozen=True)
class TopK(Rule):
    """Keep the ``k`` largest magnitudes of ``D``, with ``k = floor(fraction * D + 1/2)``.

    Ties: lowest index first. The count is fixed: exactly ``k`` entries are kept, zeros among them
    where a vector has fewer than ``k`` others.

    >>> import torch, sparsedial as sd
    >>> sd.apply_rule(torch.tensor([1.0, -1.0, 0.5, 1.0]), TopK(0.5))
    (tensor([ 1., -1.,  0.,  0.]), tensor(2, dtype=torch.int32))
    """

    fraction: float
    name: ClassVar[str] = "top_k"
    dense: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", _fraction("TopK", "fraction", self.fraction))

    @property
    def value(self) -> float:
        return self.fraction

    def count(self, width: int) -> int:
        """How many of ``width`` entries are kept."""
        return min(width, math.floor(self.fraction * width + 0.5))


@dataclass(frozen=True)
class MaxP(Rule):
    """Keep every non-zero entry with ``|v| >= fraction * max|v|`` (compared in float64).

    ``fraction = 0`` keeps every non-zero entry, ``fraction = 1`` those that equal the maximum; a
    zero vector keeps none. The dial turns the other way: larger is sparser.

    >>> import torch, sparsedial as sd
    >>> sd.apply_rule(torch.tensor([4.0, -2.0, 1.0]), MaxP(0.5))
    (tensor([ 4., -2.,  0.]), tensor(2, dtype=torch.int32))
    """

    fraction: float
    name: ClassVar[str] = "max_p"
    dense: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", _fraction("MaxP", "fraction", self.fraction))

    @property
    def value(self) -> float:
        return self.fraction


RULES: dict[str, type[TopP] | type[TopK] | type[MaxP]] = {cls.name: cls for cls in (TopP, TopK, MaxP)}


def make_rule(name: str, value: object) -> Rule:
    """The rule of that name at that dial value.

    Raises:
        SpecError: an unknown name, or a value that is not a number in [0, 1].

    >>> make_rule("top_p", 0.9)
    TopP(p=0.9)
    """
    if name not in RULES:
        raise SpecError(f"unknown rule {name!r}: expected one of {', '.join(RULES)}")
    return RULES[name](value)  # type: ignore[arg-type]  # each rule checks its own value


def rule_from_json(data: dict[str, Any]) -> Rule:
    """The inverse of `Rule.to_json`.

    Raises:
        SpecError: an unknown rule or version, or a value out of range.

    >>> rule_from_json({"rule": "max_p", "value": 0.1, "version": 1})
    MaxP(fraction=0.1)
    """
    if data.get("version") != RULE_VERSION:
        raise SpecError(f"rule {data!r}: version {data.get('version')!r}, expected {RULE_VERSION}")
    return make_rule(str(data.get("rule")), data.get("value"))
