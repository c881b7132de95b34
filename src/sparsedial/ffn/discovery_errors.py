"""Messages of the errors that are raised when no FFN can be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparsedial.ffn.elementwise_trace import ProjectionCall, run_forward
from sparsedial.ffn.projections import describe_unknown_packing, named_projections
from sparsedial.ffn.untraced_experts import FLOAT64_EXPERTS_HINT, uses_float64_grouped_experts
from sparsedial.ffn.user_named_modules import NAMED_MODULES_HINT


def failed_call_message(model: nn.Module, inputs: dict[str, Any], error: Exception) -> str:
    """Return an error message that says whether the model also fails without the trace, and what to do.

    Args:
        model: The model.
        inputs: Keyword arguments with which it was traced.
        error: The error that its forward raised.

    Returns:
        The message.
    """
    cause = f"{type(error).__name__}: {str(error).rstrip('.')}"
    failure = f"{type(model).__name__} could not be called with {', '.join(inputs)} to find its FFNs: {cause}."
    try:
        run_forward(model, inputs)
    except Exception:  # The forward is the model's own code, which can raise any exception.
        if uses_float64_grouped_experts(model):
            return f"{failure} {FLOAT64_EXPERTS_HINT}"
        return (
            f"{failure} The model itself raises this error. If it needs other arguments, pass them with "
            f"find_ffns(model, inputs=...). {NAMED_MODULES_HINT}"
        )
    return f"{failure} Without the search for FFNs, the model can be called. {NAMED_MODULES_HINT}"


def no_ffn_message(model: nn.Module, calls: Sequence[ProjectionCall], paths: Mapping[nn.Module, str]) -> str:
    """Return an error message that lists projections that read a nonlinear function of other projections' outputs.

    Args:
        model: The model.
        calls: The trace.
        paths: Paths of the model's modules.

    Returns:
        The message.
    """
    classes = sorted({type(module).__name__ for _, module in named_projections(model)})
    candidates = []
    for call in calls:
        if call.expression is not None and call.expression.is_nonlinear:
            parts = len(call.expression.parts)
            candidates.append(f" {paths[call.module]} reads an activation of the outputs of {parts} projections.")
    return (
        f"{type(model).__name__}: no FFN found. "
        f"Seen: {len(calls)} projections called ({', '.join(classes) or 'none'}); "
        f"expected one that reads act(up(x)) or up(x) * act(gate(x)).{''.join(candidates[:3])} "
        f"{_no_ffn_advice(model, has_projections=bool(classes))}"
    )


def _no_ffn_advice(model: nn.Module, has_projections: bool) -> str:
    """Return what to do about a model in which no FFN was found."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return "Parts of the model were compiled by torch.jit, which calls no hooks. Load the model as a Python module."
    packing = describe_unknown_packing(model)
    if packing:
        return packing
    if not has_projections:
        return (
            "No module of the model multiplies a vector by a matrix, so there is no module whose input could be "
            "changed. Store the weights of its FFNs in modules such as nn.Linear."
        )
    return NAMED_MODULES_HINT
