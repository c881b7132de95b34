"""Binding of a rule to the vectors that a sparsifier changes."""

from __future__ import annotations

from collections.abc import Sequence

from sparsedial.errors import ModelError, SpecError
from sparsedial.hooks.rule_applier import RuleSet
from sparsedial.hooks.site_attachment import SparsifiedVector
from sparsedial.rules import Calibration, Rule, VectorRule


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
        SpecError: A rule needs a calibration and there is none, or its method `bind` returned something else.
        ModelError: A rule differs between experts that are computed together.
    """
    vector_rules: list[VectorRule | None] = []
    for rule, vector in zip(rules, vectors, strict=True):
        vector_rules.append(None if rule is None else _bind_rule(rule, vector, calibration))
    return RuleSet(tuple(rules), tuple(vector_rules))


def _bind_rule(rule: Rule, vector: SparsifiedVector, calibration: Calibration | None) -> VectorRule:
    if rule.needs_calibration and calibration is None:
        raise SpecError(
            f"rule {rule!r} needs a calibration: pass calibration=Calibration({type(rule).__name__}.calibrate(lm, "
            "ffns)), where lm is a model that load_language_model returned. Studies do this by themselves."
        )
    bound = rule.bind(vector.ffn, vector.name, calibration)
    if not callable(getattr(bound, "keep_mask", None)):
        raise SpecError(f"rule {rule!r}: bind returned {bound!r}, expected an object with the method keep_mask")
    if bound is not rule and vector.ffn.stacked_module is not None:
        raise ModelError(
            f"{vector.ffn.name}: rule {rule!r} differs between FFNs, but experts with weights stacked in one "
            "parameter are sparsified together. Choose a rule that needs the vector only, or other layers."
        )
    return bound
