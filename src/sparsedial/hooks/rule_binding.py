"""Binding of a rule to the vectors that a sparsifier changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsedial.errors import ModelError, SpecError
from sparsedial.ffn.projection_input import ProjectionInput
from sparsedial.hooks.rule_applier import RuleSet
from sparsedial.hooks.site_attachment import SparsifiedVector
from sparsedial.rules import Calibration, Rule, VectorRule, calibrates_vectors


def bind_rules(
    rules: Sequence[Rule | None], vectors: Sequence[SparsifiedVector], calibration: Calibration | None = None
) -> RuleSet:
    """Bind a rule to each vector, which changes it only if its class overrides `Rule.bind`.

    Args:
        rules: The rule of each vector. None means that it has none.
        vectors: The vectors.
        calibration: What `Rule.calibrate` returned for the model. Defaults to None.

    Returns:
        The rules with their bindings.

    Raises:
        SpecError: A rule is not defined for a vector, or needs a calibration and there is none, or its method `bind`
            returned something else.
        ModelError: A rule differs between experts that are computed together.
    """
    vector_rules: list[VectorRule | None] = []
    for rule, vector in zip(rules, vectors, strict=True):
        vector_rules.append(None if rule is None else _bind_rule(rule, vector, calibration))
    return RuleSet(tuple(rules), tuple(vector_rules))


def undefined_reason(rule: Rule, vector: SparsifiedVector) -> str | None:
    """Return why a rule is not defined for a vector, as a sentence without the final full stop. None if it is defined.

    Args:
        rule: The rule.
        vector: The vector.
    """
    reason = rule.undefined_reason(vector.ffn, vector.name, vector.make_key().width)
    if reason is None:
        return None
    return f"{vector.ffn.name}: the rule {rule.family} is not defined for the vector {vector.name!r}: {reason}"


def _bind_rule(rule: Rule, vector: SparsifiedVector, calibration: Calibration | None) -> VectorRule:
    reason = undefined_reason(rule, vector)
    if reason is not None:
        raise SpecError(f"{reason}.")
    if rule.needs_calibration and calibration is None:
        raise SpecError(_describe_missing_calibration(rule))
    if calibration is not None and not isinstance(calibration, Calibration):
        raise SpecError(
            f"calibration: got an object of type {type(calibration).__name__}, expected what sparsedial.calibrate "
            "returned. A stored calibration is Calibration(values) again."
        )
    bound = _call_bind(rule, vector, calibration)
    if not callable(getattr(bound, "keep_mask", None)):
        raise SpecError(f"rule {rule!r}: bind returned {bound!r}, expected an object with the method keep_mask")
    if bound is not rule and vector.ffn.stacked_module is not None:
        raise ModelError(
            f"{vector.ffn.name}: rule {rule!r} differs between FFNs, but experts with weights stacked in one "
            "parameter are sparsified together. Choose a rule that needs the vector only, or other layers."
        )
    return bound


def _describe_missing_calibration(rule: Rule) -> str:
    name = type(rule).__name__
    if calibrates_vectors(type(rule)):
        call = f"sparsedial.calibrate(model, tokenizer, rule={name}, site=SITE)"
        return f"rule {rule!r} needs a calibration: pass calibration={call}. Studies do this by themselves."
    call = f"Calibration({name}.calibrate(lm, ffns))"
    return (
        f"rule {rule!r} needs a calibration: pass calibration={call}, where lm is a model that load_language_model "
        "returned. Studies do this by themselves."
    )


def _call_bind(rule: Rule, vector: SparsifiedVector, calibration: Calibration | None) -> Any:
    try:
        return rule.bind(vector.ffn, vector.name, calibration)
    except AttributeError as error:
        if isinstance(vector.ffn, ProjectionInput) and error.obj is vector.ffn:
            raise SpecError(
                f"rule {rule!r}: its method bind is not defined at the site {vector.name!r}, because it reads "
                f"ffn.{error.name}, which only FFNs have. Choose a site in the FFNs."
            ) from None
        raise
