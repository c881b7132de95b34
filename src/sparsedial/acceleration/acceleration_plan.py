"""What is accelerated: the vectors with their rules, and the options of `accelerate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparsedial.acceleration.kept_output_projections import OTHER_VECTOR
from sparsedial.acceleration.projections import Prefill, WhenSlower
from sparsedial.errors import SpecError
from sparsedial.ffn.feed_forward import FFN
from sparsedial.hooks.rule_assignment import RuleAssignment
from sparsedial.hooks.site_attachment import SparsifiedVector
from sparsedial.rules import Calibration, Rule


@dataclass(frozen=True)
class AccelerationPlan:
    """Describes what is accelerated, and how.

    Attributes:
        site: Name of the site.
        prefill: "dense" or "sparse".
        when_slower: "mask" or "dense".
        linear_layers: True to use the dense kernel for all other linear layers.
        vectors: The vectors that have a rule.
        rules: The rule of each vector.
        calibration: What the rules need to know about the model, or None.
    """

    site: str
    prefill: Prefill
    when_slower: WhenSlower
    linear_layers: bool
    vectors: Sequence[SparsifiedVector]
    rules: RuleAssignment
    calibration: Calibration | None

    def list_ffns(self) -> list[FFN]:
        """Return the FFNs that have a vector with a rule, each once.

        Raises:
            SpecError: A vector is outside of the FFNs.
        """
        ffns = {}
        for vector in self.vectors:
            if not isinstance(vector.ffn, FFN):
                raise SpecError(f"site {self.site!r}: it is outside of the FFNs: expected a site of FFNs")
            ffns[id(vector.ffn)] = vector.ffn
        return list(ffns.values())

    def list_changed_vectors(self) -> list[SparsifiedVector]:
        """Return the vectors with a rule, and those that are computed only where another vector is kept."""
        vectors = list(self.vectors)
        for vector in self.vectors:
            if vector.name in OTHER_VECTOR and isinstance(vector.ffn, FFN) and vector.ffn.gated:
                vectors.append(replace(vector, name=OTHER_VECTOR[vector.name]))
        return vectors

    def find_common_rule(self) -> Rule | None:
        """Return the rule of all vectors, or None if they differ."""
        first = self.rules[0]
        if all(rule == first for rule in self.rules):
            return first
        return None
