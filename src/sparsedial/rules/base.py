"""The interface of rules, and masks that are computed by ordering magnitudes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from numbers import Real
from typing import Any, ClassVar, Protocol

import torch

from sparsedial.errors import SpecError
from sparsedial.rules.calibration import Calibration
from sparsedial.rules.rule_family import join_family

RULE_VERSION = 1
"""Version of the built-in rules. It must be increased when a changed definition keeps other entries."""


class VectorRule(Protocol):
    """Interface of a rule as it is applied to the vectors of one FFN. Every `Rule` implements it."""

    def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return which entries are kept: see `Rule.keep_mask`.

        Args:
            magnitudes: Absolute values of the vectors, float64 of shape [N, D].
        """
        ...


@dataclass(frozen=True)
class Rule:
    """Base class of the rules, which are frozen dataclasses. The first field is the rule's parameter.

    A subclass defines `keep_mask`, or `bind` if it needs more than the vector. Further fields need defaults. They are
    part of the rule's JSON, and so of the key of a trial.

    Attributes:
        name: Name of the rule in specifications and files.
        version: Version of the definition, at least 1. It is part of the rule's JSON, and must be increased when a
            changed definition keeps other entries.
        dense_value: Value of the parameter at which the model's output equals the dense output bit for bit.
        sparsest_value: Value of the parameter at which the rule drops most entries, at the other end of the range.
        search_digits: Number of decimal digits of the values that an adaptive search chooses.
        keeps_lowest_index_first: True if, among entries of equal magnitude, those with the lowest index are kept first.
        needs_calibration: True if `bind` needs a calibration. The class defines `calibrate_vector`, or `calibrate`.
    """

    name: ClassVar[str]
    version: ClassVar[int] = RULE_VERSION
    dense_value: ClassVar[float] = 1.0
    sparsest_value: ClassVar[float] = 0.0
    search_digits: ClassVar[int] = 4
    keeps_lowest_index_first: ClassVar[bool] = False
    needs_calibration: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the parameter, and convert it to a float.

        Raises:
            SpecError: The parameter is not a number in the range of the rule.
        """
        if fields(self):
            name = self.parameter_name()
            object.__setattr__(self, name, self._check_parameter(name, getattr(self, name)))

    @classmethod
    def _check_parameter(cls, name: str, value: object) -> float:
        low, high = sorted((cls.dense_value, cls.sparsest_value))
        if isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high:  # NaN: False
            return float(value)
        raise SpecError(f"{cls.__name__}({name}={value!r}): expected a number in [{low:g}, {high:g}]")

    @classmethod
    def parameter_name(cls) -> str:
        """Return the name of the parameter, which is the first field.

        Raises:
            SpecError: The rule has no field.
        """
        parameter = next(iter(fields(cls)), None)
        if parameter is None:
            raise SpecError(f"rule {cls.__name__}: it has no parameter. Expected a dataclass with at least one field.")
        return parameter.name

    @property
    def value(self) -> float:
        """Value of the parameter."""
        return float(getattr(self, self.parameter_name()))

    @property
    def family(self) -> str:
        """Text that names the rule and those of its further fields that differ from their defaults."""
        options = {}
        for field in fields(self)[1:]:
            if getattr(self, field.name) != field.default:
                options[field.name] = getattr(self, field.name)
        return join_family(self.name, options)

    def representative(self) -> Rule:
        """Return the rule that a search measures in place of this one. By default, this is the rule itself.

        A class overrides this method if rules with neighboring values keep the same entries of every vector.
        """
        return self

    def undefined_reason(self, ffn: Any, vector: str, width: int) -> str | None:
        """Return why the rule is not defined for a vector of an FFN, or None if it is. By default, it is for all.

        Args:
            ffn: The FFN, as described in `sparsedial.ffn.FFN`.
            vector: Name of the vector: "input", "up", "gate", "intermediate", or that of a registered site.
            width: Number of entries of the vector.

        Returns:
            The reason as a clause, or None.
        """
        return None

    def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return which entries of each vector are kept.

        The mask of a vector must not depend on the other vectors. The rule is not asked about vectors with a NaN or
        an infinity, which are always left unchanged: their magnitudes are replaced by zeros.

        Args:
            magnitudes: Absolute values of the vectors, float64 of shape [N, D], on the device of the vectors. They are
                finite and must not be changed.

        Returns:
            Boolean tensor of the same shape and device, True for the entries that are kept.

        Raises:
            SpecError: The class of the rule does not define this method.
        """
        raise SpecError(
            f"rule {self!r}: its class does not define keep_mask, so it cannot be applied to a tensor. A rule whose "
            "method bind returns the rule for one FFN is applied with sparsify."
        )

    def bind(self, ffn: Any, vector: str, calibration: Calibration | None) -> VectorRule:
        """Return the rule for one vector of one FFN. By default, this is the rule itself.

        A rule that needs more than the vector, such as the weights that the vector is multiplied by, overrides this
        method. The kept entries may depend on the result's own state and on one vector, but not on other vectors.

        Args:
            ffn: The FFN, as described in `sparsedial.ffn.FFN`.
            vector: Name of the vector: "input", "up", "gate", "intermediate", or that of a registered site.
            calibration: The calibration for the model and the site. None if the rule does not need it.

        Returns:
            An object with the method `keep_mask`.
        """
        return self

    @classmethod
    def calibrate(cls, lm: Any, ffns: Any) -> Mapping[str, Any]:
        """Compute what `bind` needs to know about a model. It is called once for each model, for all values.

        Args:
            lm: The loaded model and its tokenizer, as described in `sparsedial.models.loading.LanguageModel`. No
                sparsifier is attached to it.
            ffns: The FFNs of the model.

        Returns:
            Plain JSON, from which a `Calibration` is made. Its digest is part of the key of a trial.

        Raises:
            NotImplementedError: The class needs a calibration and does not define this method.
        """
        raise NotImplementedError(f"{cls.__name__} has needs_calibration, but does not define calibrate")

    @classmethod
    def calibrate_vector(cls, vectors: torch.Tensor, ffn: Any, vector: str) -> Mapping[str, Any]:
        """Compute what `bind` needs to know about one vector of one FFN, from its values on the calibration data.

        `sparsedial.calibrate` and studies call it for each vector. `find_entry` returns the result in `bind`.

        Args:
            vectors: Values of the vector for the tokens of the calibration data, shape [tokens, D].
            ffn: The FFN.
            vector: Name of the vector.

        Returns:
            Plain JSON.

        Raises:
            NotImplementedError: The class does not define this method.
        """
        raise NotImplementedError(f"{cls.__name__} does not define calibrate_vector")

    @classmethod
    def value_at(cls, distance: float) -> float:
        """Return the value at a distance from the dense value. An adaptive search moves along this distance.

        By default, the value changes linearly between the two ends of the range. `distance_from_dense` is the inverse.

        Args:
            distance: 0 at the dense value, 1 at the sparsest value.
        """
        return cls.dense_value + distance * (cls.sparsest_value - cls.dense_value)

    @classmethod
    def distance_from_dense(cls, value: float) -> float:
        """Return the distance of a value from the dense value, as `value_at` defines it.

        Args:
            value: A value of the parameter.
        """
        return (value - cls.dense_value) / (cls.sparsest_value - cls.dense_value)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `rule_from_json` reads.

        Returns:
            The rule's name, its parameter, and the version of its definition. If the rule has further fields, they are
            in the dictionary "options".

        Example:
            >>> from sparsedial.rules import TopP
            >>> TopP(0.9).to_json()
            {'rule': 'top_p', 'value': 0.9, 'version': 1}
        """
        data: dict[str, Any] = {"rule": self.name, "value": self.value, "version": self.version}
        for field in fields(self)[1:]:
            data.setdefault("options", {})[field.name] = getattr(self, field.name)
        return data


def keep_largest(magnitudes: torch.Tensor, count_kept: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return a mask of the largest entries of each vector. Of equal entries, the lowest index is first.

    Args:
        magnitudes: Absolute values, shape [N, D].
        count_kept: Function of the magnitudes in descending order, shape [N, D], that returns how many entries of each
            vector are kept, shape [N].

    Returns:
        Boolean mask of shape [N, D].

    Example:
        >>> keep_largest(torch.tensor([[1.0, 2.0, 2.0, 3.0]]), lambda ordered: torch.tensor([2]))
        tensor([[False,  True, False,  True]])
    """
    ordered, order = torch.sort(magnitudes, dim=-1, descending=True, stable=True)  # stable: lowest index first
    ranks = torch.arange(magnitudes.shape[-1], device=magnitudes.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, ranks) < count_kept(ordered)[:, None]


def check_rule(rule: object) -> Rule:
    """Return an object if it is a rule that can be applied to the vectors of an FFN, and raise an error otherwise.

    Args:
        rule: Any object.

    Returns:
        The rule.

    Raises:
        SpecError: The object is not a rule, or its class defines neither `Rule.keep_mask` nor `Rule.bind`.
    """
    if not isinstance(rule, Rule):
        raise SpecError(f"expected a rule such as TopP(0.9), got {rule!r}")
    if _defines_nothing(type(rule)):
        raise SpecError(f"rule {rule!r}: its class defines neither keep_mask nor bind. Expected one of them.")
    return rule


def _defines_nothing(rule_class: type[Rule]) -> bool:
    return rule_class.keep_mask is Rule.keep_mask and rule_class.bind is Rule.bind


def check_rule_class(rule_class: Any) -> None:
    """Raise an error if a class is not a rule that can be registered.

    Args:
        rule_class: The class.

    Raises:
        SpecError: The class is not a frozen dataclass derived from `Rule`, or what it declares is wrong.
    """
    if not isinstance(rule_class, type) or not issubclass(rule_class, Rule):
        raise SpecError(f"register_rule: expected a subclass of sparsedial.Rule, got {rule_class!r}")
    source = f"rule {rule_class.__module__}.{rule_class.__qualname__}"
    parameters = vars(rule_class).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise SpecError(f"{source}: expected @dataclass(frozen=True) on the line below @register_rule")
    if not fields(rule_class):
        raise SpecError(f"{source}: it has no field. Expected the parameter as its first field")
    for field in fields(rule_class)[1:]:
        if field.init and field.default is MISSING and field.default_factory is MISSING:
            raise SpecError(f"{source}: the field {field.name!r} has no default. Only the first field needs none.")
    if _defines_nothing(rule_class):
        raise SpecError(f"{source}: it defines neither keep_mask nor bind. Expected one of them.")
    ends = (rule_class.dense_value, rule_class.sparsest_value)
    if not all(map(math.isfinite, ends)) or ends[0] == ends[1]:
        raise SpecError(f"{source}: dense_value and sparsest_value are {ends}: expected two different finite numbers")
    if type(rule_class.version) is not int or rule_class.version < 1:
        raise SpecError(f"{source}: version {rule_class.version!r}: expected a whole number of at least 1")
    if rule_class.needs_calibration and not (calibrates_vectors(rule_class) or defines_method(rule_class, "calibrate")):
        raise SpecError(
            f"{source}: needs_calibration is True, but the class does not define calibrate_vector or calibrate"
        )


def calibrates_vectors(rule_class: type[Rule]) -> bool:
    """Return True if the class of a rule defines `Rule.calibrate_vector`.

    Args:
        rule_class: The class.
    """
    return defines_method(rule_class, "calibrate_vector")


def defines_method(rule_class: type[Rule], name: str) -> bool:
    """Return True if the class of a rule overrides a class method of `Rule`.

    Args:
        rule_class: The class.
        name: Name of the method.
    """
    return getattr(rule_class, name).__func__ is not getattr(Rule, name).__func__
