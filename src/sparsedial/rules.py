"""Rules that select which entries of an activation vector are kept.

A rule is applied to each vector along the last dimension of a tensor separately, so the entries of different tokens are
never compared. The classes in this module only define the rules. `sparsedial.kernels` computes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sparsedial.errors import SpecError
from sparsedial.suggestions import describe_unknown

RULE_VERSION = 1  # part of every rule's JSON; must be increased when a changed definition keeps other entries


def _check_parameter(rule: str, name: str, value: object) -> float:
    """Return a rule parameter as a float, or raise an error if it is not a number in [0, 1]."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0:  # False for NaN as well
        return float(value)
    raise SpecError(f"{rule}({name}={value!r}): expected a number in [0, 1]")


@dataclass(frozen=True)
class Rule:
    """Base class of the rules. A rule has a name and one parameter in [0, 1].

    Attributes:
        name: Name of the rule in specifications and files.
        dense_value: Value of the rule parameter at which the model's output equals the dense output bit for bit.
    """

    name: ClassVar[str]
    dense_value: ClassVar[float]

    @property
    def value(self) -> float:
        """Value of the rule parameter, which is named ``p`` or ``fraction`` in the subclasses.

        Raises:
            NotImplementedError: The class of the rule does not define its value.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `rule_from_json` reads.

        Returns:
            The rule's name, its parameter, and the version of the rule definitions.

        Example:
            >>> TopP(0.9).to_json()
            {'rule': 'top_p', 'value': 0.9, 'version': 1}
        """
        return {"rule": self.name, "value": self.value, "version": RULE_VERSION}


@dataclass(frozen=True)
class TopP(Rule):
    """Keep the fewest entries, largest magnitude first, whose L1 norm reaches ``p * ||v||_1``.

    Among entries of equal magnitude, those with the lowest index are kept first. No entry of a zero vector is kept.
    ``p = 0`` keeps no entry, and ``p = 1`` keeps every non-zero entry. Source: arXiv 2509.00454, section 3.

    Args:
        p: Share of the L1 norm to keep, in [0, 1].

    Example:
        >>> import torch, sparsedial as sd
        >>> sd.apply_rule(torch.tensor([4.0, -3.0, 2.0, 1.0]), TopP(0.7))
        (tensor([ 4., -3.,  0.,  0.]), tensor(2, dtype=torch.int32))
    """

    p: float
    name: ClassVar[str] = "top_p"
    dense_value: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", _check_parameter("TopP", "p", self.p))

    @property
    def value(self) -> float:
        """The parameter ``p``."""
        return self.p


@dataclass(frozen=True)
class TopK(Rule):
    """Keep the ``k`` largest magnitudes of the ``D`` entries, with ``k = floor(fraction * D + 1/2)``.

    Among entries of equal magnitude, those with the lowest index are kept first. Exactly ``k`` entries are kept. They
    include zeros if the vector has fewer than ``k`` non-zero entries.

    Args:
        fraction: Share of the entries to keep, in [0, 1].

    Example:
        >>> import torch, sparsedial as sd
        >>> sd.apply_rule(torch.tensor([1.0, -1.0, 0.5, 1.0]), TopK(0.5))
        (tensor([ 1., -1.,  0.,  0.]), tensor(2, dtype=torch.int32))
    """

    fraction: float
    name: ClassVar[str] = "top_k"
    dense_value: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", _check_parameter("TopK", "fraction", self.fraction))

    @property
    def value(self) -> float:
        """The parameter ``fraction``."""
        return self.fraction

    def count(self, width: int) -> int:
        """Return the number of entries that are kept.

        Args:
            width: Number of entries of the vector.

        Returns:
            The number ``k``.
        """
        return min(width, math.floor(self.fraction * width + 0.5))


@dataclass(frozen=True)
class MaxP(Rule):
    """Keep every non-zero entry with ``|v| >= fraction * max|v|``, compared in float64.

    This rule is also known as min-p or as a relative threshold. ``fraction = 0`` keeps every non-zero entry, and
    ``fraction = 1`` keeps the entries that equal the maximum. No entry of a zero vector is kept. Unlike with the other
    rules, a larger parameter drops more entries.

    Args:
        fraction: Threshold as a share of the largest magnitude, in [0, 1].

    Example:
        >>> import torch, sparsedial as sd
        >>> sd.apply_rule(torch.tensor([4.0, -2.0, 1.0]), MaxP(0.5))
        (tensor([ 4., -2.,  0.]), tensor(2, dtype=torch.int32))
    """

    fraction: float
    name: ClassVar[str] = "max_p"
    dense_value: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", _check_parameter("MaxP", "fraction", self.fraction))

    @property
    def value(self) -> float:
        """The parameter ``fraction``."""
        return self.fraction


RULES: dict[str, type[TopP] | type[TopK] | type[MaxP]] = {
    TopP.name: TopP,
    TopK.name: TopK,
    MaxP.name: MaxP,
}


def make_rule(name: str, value: object) -> Rule:
    """Make a rule from its name and its parameter.

    Args:
        name: ``top_p``, ``top_k`` or ``max_p``.
        value: The rule parameter. A `SpecError` is raised if it is not a number in [0, 1].

    Returns:
        The rule.

    Raises:
        SpecError: The name is unknown.

    Example:
        >>> make_rule("top_p", 0.9)
        TopP(p=0.9)
    """
    if name not in RULES:
        raise SpecError(describe_unknown("rule", name, RULES))
    return RULES[name](value)  # type: ignore[arg-type]  # each rule checks its own parameter


def rule_from_json(data: Mapping[str, Any]) -> Rule:
    """Read a rule that `Rule.to_json` wrote.

    Args:
        data: The dictionary. A `SpecError` is raised if its rule is unknown or its value is not a number in [0, 1].

    Returns:
        The rule.

    Raises:
        SpecError: The version of the rule definitions is not the current one.

    Example:
        >>> rule_from_json({"rule": "max_p", "value": 0.1, "version": 1})
        MaxP(fraction=0.1)
    """
    if data.get("version") != RULE_VERSION:
        raise SpecError(
            f"rule {data!r}: version {data.get('version')!r}, expected {RULE_VERSION}. "
            "It was written by another version of sparsedial: read it with that version, or run the measurement again."
        )
    return make_rule(str(data.get("rule")), data.get("value"))
