"""Rules that select which entries of an activation vector are kept.

A rule is applied to each vector along the last dimension of a tensor separately, so the entries of different tokens are
never compared. The classes in this package define the rules. `sparsedial.kernels` computes them faster.
"""

from sparsedial.rules.base import RULE_VERSION, Rule, VectorRule, check_rule, check_rule_class
from sparsedial.rules.builtin import MaxP, TopK, TopP
from sparsedial.rules.calibration import Calibration
from sparsedial.rules.rule_registry import (
    RULES,
    RecordedRule,
    make_rule,
    recorded_rule_from_json,
    register_rule,
    rule_from_json,
)

__all__ = [
    "RULES",
    "RULE_VERSION",
    "Calibration",
    "MaxP",
    "RecordedRule",
    "Rule",
    "TopK",
    "TopP",
    "VectorRule",
    "check_rule",
    "check_rule_class",
    "make_rule",
    "recorded_rule_from_json",
    "register_rule",
    "rule_from_json",
]
