"""sparsedial: how many of its FFN activations a language model can do without, and what that buys."""

from sparsedial.kernels import apply_rule
from sparsedial.rules import MaxP, Rule, TopK, TopP

__all__ = ["MaxP", "Rule", "TopK", "TopP", "apply_rule"]
__version__ = "0.1.0"
