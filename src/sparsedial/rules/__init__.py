"""Rules that select which entries of an activation vector are kept.

A rule is applied to each vector along the last dimension of a tensor separately, so the entries of different tokens are
never compared. The classes in this package define the rules. `sparsedial.kernels` computes them faster.
"""

from sparsedial.rules.base import RULE_VERSION, Rule, VectorRule, calibrates_vectors, check_rule, check_rule_class
from sparsedial.rules.builtin import MaxP, TopK, TopP
from sparsedial.rules.calibration import Calibration
from sparsedial.rules.cett import Cett
from sparsedial.rules.n_of_m import NOfM
from sparsedial.rules.rule_family import split_family
from sparsedial.rules.rule_registry import (
    RULES,
    RecordedRule,
    find_rule_class,
    make_rule,
    normalize_family,
    recorded_rule_from_json,
    register_rule,
    rule_from_json,
)
from sparsedial.rules.threshold import Threshold
from sparsedial.rules.weighted_top_k import WeightedTopK
from sparsedial.rules.weighted_top_p import WeightedTopP

__all__ = [
    "RULES",
    "RULE_VERSION",
    "Calibration",
    "Cett",
    "MaxP",
    "NOfM",
    "RecordedRule",
    "Rule",
    "Threshold",
    "TopK",
    "TopP",
    "VectorRule",
    "WeightedTopK",
    "WeightedTopP",
    "calibrates_vectors",
    "check_rule",
    "check_rule_class",
    "find_rule_class",
    "make_rule",
    "normalize_family",
    "recorded_rule_from_json",
    "register_rule",
    "rule_from_json",
    "split_family",
]
