"""Measurement of how much activation sparsity a language model tolerates."""

from typing import TYPE_CHECKING, Any

from sparsedial.curves.critical import CriticalSparsity, critical_sparsity
from sparsedial.curves.curve import Curve
from sparsedial.errors import SparsedialError
from sparsedial.ffn import FFN, SITES, FFNs, ModuleVector, Site, find_ffns, register_site
from sparsedial.hooks import Sparsifier, sparsify
from sparsedial.kernels import apply_rule, register_kernel
from sparsedial.models.loading import load_model
from sparsedial.rules import Calibration, MaxP, Rule, TopK, TopP, register_rule

if TYPE_CHECKING:
    from sparsedial.tasks.registry import register_task

__all__ = [
    "FFN",
    "FFNs",
    "SITES",
    "Calibration",
    "CriticalSparsity",
    "Curve",
    "MaxP",
    "ModuleVector",
    "Rule",
    "Site",
    "SparsedialError",
    "Sparsifier",
    "TopK",
    "TopP",
    "apply_rule",
    "critical_sparsity",
    "find_ffns",
    "load_model",
    "register_kernel",
    "register_rule",
    "register_site",
    "register_task",
    "sparsify",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `register_task` when it is used first, because tasks import far more than the rest of this module."""
    if name == "register_task":
        from sparsedial.tasks.registry import register_task

        return register_task
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
