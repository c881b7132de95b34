"""Measurement of how much activation sparsity a language model tolerates."""

from sparsedial.curves.critical import CriticalSparsity, critical_sparsity
from sparsedial.curves.curve import Curve
from sparsedial.errors import SparsedialError
from sparsedial.ffn import FFN, SITES, FFNs, find_ffns
from sparsedial.hooks import Sparsifier, sparsify
from sparsedial.kernels import apply_rule
from sparsedial.models.loading import load_model
from sparsedial.rules import MaxP, Rule, TopK, TopP

__all__ = [
    "FFN",
    "FFNs",
    "SITES",
    "CriticalSparsity",
    "Curve",
    "MaxP",
    "Rule",
    "SparsedialError",
    "Sparsifier",
    "TopK",
    "TopP",
    "apply_rule",
    "critical_sparsity",
    "find_ffns",
    "load_model",
    "sparsify",
]
__version__ = "0.1.0"
