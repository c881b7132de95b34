"""Measurement of how much activation sparsity a language model tolerates."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsedial.acceleration.accelerated_model import AcceleratedModel, accelerate
    from sparsedial.calibration import calibrate
    from sparsedial.curves.critical import CriticalSparsity, critical_sparsity
    from sparsedial.curves.curve import Curve
    from sparsedial.curves.curve import make_curve as curve
    from sparsedial.curves.perplexity import critical_sparsity_by_perplexity
    from sparsedial.curves.task_average import average_tasks as task_average
    from sparsedial.errors import SparsedialError
    from sparsedial.ffn import FFN, SITES, FFNs, ModuleVector, Site, find_ffns, register_site
    from sparsedial.hooks import Sparsifier, sparsify
    from sparsedial.kernels import apply_rule, register_kernel
    from sparsedial.measurement.evidence import make_evidence
    from sparsedial.measurement.measure import measure
    from sparsedial.measurement.result import Measurement
    from sparsedial.models.loading import load_model
    from sparsedial.rules import (
        Calibration,
        Cett,
        MaxP,
        NOfM,
        Rule,
        Threshold,
        TopK,
        TopP,
        WeightedTopK,
        WeightedTopP,
        register_rule,
    )
    from sparsedial.tasks.registry import register_task

__all__ = [
    "FFN",
    "FFNs",
    "SITES",
    "AcceleratedModel",
    "Calibration",
    "Cett",
    "CriticalSparsity",
    "Curve",
    "MaxP",
    "Measurement",
    "ModuleVector",
    "NOfM",
    "Rule",
    "Site",
    "SparsedialError",
    "Sparsifier",
    "Threshold",
    "TopK",
    "TopP",
    "WeightedTopK",
    "WeightedTopP",
    "accelerate",
    "apply_rule",
    "calibrate",
    "critical_sparsity",
    "critical_sparsity_by_perplexity",
    "curve",
    "find_ffns",
    "load_model",
    "make_evidence",
    "measure",
    "register_kernel",
    "register_rule",
    "register_site",
    "register_task",
    "sparsify",
    "task_average",
]
__version__ = "0.1.0"

_ORIGINS = {
    "AcceleratedModel": "acceleration.accelerated_model.AcceleratedModel",
    "accelerate": "acceleration.accelerated_model.accelerate",
    "FFN": "ffn.FFN",
    "FFNs": "ffn.FFNs",
    "SITES": "ffn.SITES",
    "Calibration": "rules.Calibration",
    "Cett": "rules.Cett",
    "CriticalSparsity": "curves.critical.CriticalSparsity",
    "Curve": "curves.curve.Curve",
    "MaxP": "rules.MaxP",
    "Measurement": "measurement.result.Measurement",
    "ModuleVector": "ffn.ModuleVector",
    "NOfM": "rules.NOfM",
    "Rule": "rules.Rule",
    "Site": "ffn.Site",
    "SparsedialError": "errors.SparsedialError",
    "Sparsifier": "hooks.Sparsifier",
    "Threshold": "rules.Threshold",
    "TopK": "rules.TopK",
    "TopP": "rules.TopP",
    "WeightedTopK": "rules.WeightedTopK",
    "WeightedTopP": "rules.WeightedTopP",
    "apply_rule": "kernels.apply_rule",
    "calibrate": "calibration.calibrate",
    "critical_sparsity": "curves.critical.critical_sparsity",
    "critical_sparsity_by_perplexity": "curves.perplexity.critical_sparsity_by_perplexity",
    "curve": "curves.curve.make_curve",
    "find_ffns": "ffn.find_ffns",
    "load_model": "models.loading.load_model",
    "make_evidence": "measurement.evidence.make_evidence",
    "measure": "measurement.measure.measure",
    "register_kernel": "kernels.register_kernel",
    "register_rule": "rules.register_rule",
    "register_site": "ffn.register_site",
    "register_task": "tasks.registry.register_task",
    "sparsify": "hooks.sparsify",
    "task_average": "curves.task_average.average_tasks",
}
"""Module and name of each name of this package. A module is imported when one of its names is used first."""


def __getattr__(name: str) -> Any:
    """Import a name of this package when it is used first."""
    if name not in _ORIGINS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _ORIGINS[name].rpartition(".")
    value = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the names of this package."""
    return sorted({*globals(), *__all__})
