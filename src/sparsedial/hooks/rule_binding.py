"""Binding of a rule to the vectors that a sparsifier changes."""

from __future__ import annotations

from collections.abc import Sequence

from sparsedial.errors import ModelError, SpecError
from sparsedial.hooks.site_attachment import SparsifiedVector
from sparsedial.rules import Calibration, Rule, VectorRule


def bind_rule(
    rule: Rule, vectors: Sequence[SparsifiedVector], calibration: Calibration | None = None
) -> list[VectorRule]:
    """Return the rule for each vector, which is the rule itself unless its class overrides `Rule.bind`.

    Args:
        rule: The rule.
        vectors: The vectors.
        calibration: What the rule's `Rule.calibrate` returned for the model. Defaults to None.

    Returns:
        One rule for each vector.

    Raises:
        SpecError: The rule needs a calibration and there is none, or its method `bind` returned something else.
        ModelError: The rule differs between experts that are computed together.
    """
    if rule.needs_calibration and calibration is None:
        raise SpecError(
            f"rule {rule!r} needs a calibration: pass calibration=Calibration({type(rule).__name__}.calibrate(lm, "
            "ffns)), where lm is a model that load_language_model returned. Studies do this by themselves."
        )
    vector_rules: list[VectorRule] = []
    for vector in vectors:
        bound = rule.bind(vector.ffn, vector.name, calibration)
        if not callable(getattr(bound, "keep_mask", None)):
            raise SpecError(f"rule {rule!r}: bind returned {bound!r}, expected an object with the method keep_mask")
        if bound is not rule and vector.ffn.stacked_module is not None:
            raise ModelError(
                f"{vector.ffn.name}: rule {rule!r} differs between FFNs, but experts with weights stacked in one "
                "parameter are sparsified together. Choose a rule that needs the vector only, or other layers."
            )
        vector_rules.append(bound)
    return vector_rules
