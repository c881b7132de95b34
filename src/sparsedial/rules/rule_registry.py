"""Rules by name: the built-in rules, and those that a program or another package registers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from sparsedial.errors import SpecError
from sparsedial.registry import Registry
from sparsedial.rules.base import Rule, check_rule_class
from sparsedial.rules.builtin import MaxP, TopK, TopP
from sparsedial.rules.cett import Cett
from sparsedial.rules.n_of_m import NOfM
from sparsedial.rules.rule_family import split_family
from sparsedial.rules.threshold import Threshold
from sparsedial.rules.weighted_top_k import WeightedTopK
from sparsedial.rules.weighted_top_p import WeightedTopP

RuleT = TypeVar("RuleT", bound=Rule)


def register_rule(rule_class: type[RuleT]) -> type[RuleT]:
    """Register a rule, so that its name can be used wherever that of a built-in rule can be.

    Args:
        rule_class: Frozen dataclass derived from `Rule`.

    Returns:
        The class, so that this function can be used as a decorator above ``@dataclass(frozen=True)``. A `SpecError` is
        raised if the class is not such a dataclass, or if another rule has its name.

    Example:
        >>> import sparsedial as sd, torch
        >>> @sd.register_rule
        ... @dataclass(frozen=True)
        ... class AboveMean(sd.Rule):
        ...     factor: float
        ...     name: ClassVar[str] = "above_mean"
        ...     dense_value: ClassVar[float] = 0.0
        ...     sparsest_value: ClassVar[float] = 4.0
        ...
        ...     def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        ...         return magnitudes > self.factor * magnitudes.mean(-1, keepdim=True)
        >>> sd.apply_rule(torch.tensor([4.0, -3.0, 2.0, 1.0]), make_rule("above_mean", 1))
        (tensor([ 4., -3.,  0.,  0.]), tensor(2, dtype=torch.int32))
    """
    check_rule_class(rule_class)
    RULES.add(getattr(rule_class, "name", None), rule_class, rule_class)
    return rule_class


_CLASSES: tuple[type[Rule], ...] = (TopP, TopK, MaxP, NOfM, WeightedTopK, WeightedTopP, Threshold, Cett)

RULES: Registry[type[Any]] = Registry(
    "rule", "sparsedial.rules", {rule_class.name: rule_class for rule_class in _CLASSES}, register_rule
)


def find_rule_class(family: str) -> type[Rule]:
    """Return the class of the rules of a family. A `SpecError` is raised if there is no rule of its name.

    Args:
        family: Name of a rule, which options in parentheses may follow.

    Example:
        >>> find_rule_class("top_p(q=2)").__name__
        'TopP'
    """
    rule_class: type[Rule] = RULES[split_family(family)[0]]
    return rule_class


def normalize_family(family: str) -> str:
    """Return the text that `Rule.family` has for the rules of a family. A `SpecError` is raised if it is wrong.

    Args:
        family: Name of a rule, which options in parentheses may follow.

    Example:
        >>> normalize_family("top_p( q = 2.0 )"), normalize_family("top_p(q=1)")
        ('top_p(q=2)', 'top_p')
    """
    return make_rule(family, find_rule_class(family).dense_value).family


def make_rule(name: str, value: object, options: Mapping[str, Any] | None = None) -> Rule:
    """Make a rule from its name and its parameter.

    Args:
        name: ``top_p``, ``top_k``, ``max_p``, another name from `RULES`, or a family such as ``top_p(q=2)``. A
            `SpecError` is raised if it is unknown.
        value: The rule parameter. A `SpecError` is raised if it is not a number in the range of the rule.
        options: Further fields of the rule by name. Defaults to None, which means their defaults.

    Returns:
        The rule.

    Example:
        >>> make_rule("top_p", 0.9), make_rule("n_of_m(m=16)", 0.5)
        (TopP(p=0.9), NOfM(fraction=0.5, m=16))
    """
    if "(" in name:
        name, named_options = split_family(name)
        options = {**named_options, **(options or {})}
    rule_class = RULES[name]
    if options:
        _check_options(rule_class, options)
    rule: Rule = rule_class(value, **(options or {}))
    return rule


def _check_options(rule_class: type[Rule], options: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(rule_class)][1:]
    for option in options:
        if option not in known:
            expected = f"expected {', '.join(known)}" if known else "the rule has no options"
            raise SpecError(f"rule {rule_class.name!r}: unknown option {option!r}: {expected}")


def rule_from_json(data: Mapping[str, Any]) -> Rule:
    """Read a rule that `Rule.to_json` wrote.

    Args:
        data: The dictionary. A `SpecError` is raised if its rule is unknown or its value is not in the rule's range.

    Returns:
        The rule.

    Raises:
        SpecError: The rule was written with another version of its definition.

    Example:
        >>> rule_from_json({"rule": "max_p", "value": 0.1, "version": 1})
        MaxP(fraction=0.1)
    """
    name = str(data.get("rule"))
    version = RULES[name].version
    if data.get("version") != version:
        raise SpecError(
            f"rule {data!r}: version {data.get('version')!r}, expected {version}. It was written with another version "
            "of the rule's definition: read it with that version, or run the measurement again."
        )
    return make_rule(name, data.get("value"), data.get("options"))


@dataclass(frozen=True)
class RecordedRule(Rule):
    """A rule in a record whose definition is not available: it is not registered, or has another version now.

    It can be read, compared and written again, but not applied.

    Attributes:
        text: The JSON of the rule.
    """

    text: str
    name: ClassVar[str] = ""  # replaced for each object

    def __post_init__(self) -> None:
        data = self.to_json()
        object.__setattr__(self, "name", data["rule"])
        object.__setattr__(self, "version", data["version"])

    @property
    def value(self) -> float:
        """Value of the parameter."""
        return float(self.to_json()["value"])

    @property
    def family(self) -> str:
        """Name of the rule, because the defaults of its further fields are not known."""
        return self.name

    def to_json(self) -> dict[str, Any]:
        """Return the dictionary that was read."""
        data: dict[str, Any] = json.loads(self.text)
        return data


def recorded_rule_from_json(data: Mapping[str, Any]) -> Rule:
    """Read the rule of a finished trial, even if its definition is not available.

    Args:
        data: What `Rule.to_json` returned.

    Returns:
        The rule, or a `RecordedRule` that cannot be applied.

    Example:
        >>> recorded_rule_from_json({"rule": "top_p", "value": 0.5, "version": 1})
        TopP(p=0.5)
        >>> recorded_rule_from_json({"rule": "top_p", "value": 0.5, "version": 99}).to_json()
        {'rule': 'top_p', 'value': 0.5, 'version': 99}
    """
    try:
        return rule_from_json(data)
    except SpecError:
        return RecordedRule(json.dumps(dict(data)))
