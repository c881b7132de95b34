"""sparsedial: how many of its FFN activations a language model can do without, and what that buys."""

from sparsedial.critical import CriticalSparsity, Curve, critical_sparsity
from sparsedial.ffn import find_ffns
from sparsedial.kernels import apply_rule
from sparsedial.rules import MaxP, Rule, TopK, TopP
from sparsedial.sparsify import sparsify

__all__ = [
    "CriticalSparsity",
    "Curve",
    "critical_sparsity",
    "MaxP",
    "Rule",
    "TopK",
    "TopP",
    "apply_rule",
    "find_ffns",
    "sparsify",
]
__version__ = "0.1.0"
