"""Which models can be accelerated. The errors say what is supported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparsedial.acceleration.backend import Backend
from sparsedial.dtype_names import dtype_name
from sparsedial.errors import ModelError
from sparsedial.ffn.feed_forward import FFN

SUPPORTED = (
    "expected a dense FFN whose projections are torch.nn.Linear or Conv1D with unquantised weights on one device"
)
REMEDY = (
    "Load the weights unquantised and onto one device, merge adapters first, or use sparsedial.sparsify, which applies "
    "the rule to layers of any kind and skips nothing"
)


def check_ffns(model: nn.Module, ffns: Sequence[FFN]) -> torch.device:
    """Check that the weights of FFNs can be rearranged.

    Args:
        model: The model that contains them.
        ffns: The FFNs to accelerate.

    Returns:
        The device of their weights.

    Raises:
        ModelError: An FFN is an expert, or a projection is quantised, wrapped, sharded, offloaded or tied.
    """
    names = _parameter_names(model)
    devices: dict[torch.device, str] = {}
    for ffn in ffns:
        if ffn.expert is not None:
            raise ModelError(
                f"accelerate: {ffn.name} is an expert of a mixture of experts: {SUPPORTED}. Choose layers with dense "
                "FFNs with layers=."
            )
        for module in (*ffn.input_projections, ffn.down):
            devices.setdefault(_check_projection(ffn, module, names), ffn.name)
    if len(devices) > 1:
        listed = ", ".join(f"{name} on {device}" for device, name in devices.items())
        raise ModelError(f"accelerate: the FFNs are on different devices ({listed}): {SUPPORTED}. {REMEDY}.")
    return next(iter(devices))


def check_dtype(ffns: Sequence[FFN], backend: Backend) -> None:
    """Check that the kernels support the dtype of all weights.

    Args:
        ffns: The FFNs to accelerate.
        backend: The kernels.

    Raises:
        ModelError: A dtype is not supported, or an FFN has several.
    """
    for ffn in ffns:
        dtypes = {module.weight.dtype for module in (*ffn.input_projections, ffn.down)}
        unsupported = dtypes.difference(backend.dtypes)
        if unsupported or len(dtypes) > 1:
            names = ", ".join(sorted(map(dtype_name, dtypes)))  # type: ignore[arg-type]  # a module's attribute
            expected = ", ".join(map(dtype_name, backend.dtypes))
            raise ModelError(
                f"accelerate: the weights of {ffn.name} are {names}: expected one dtype of {expected}. Load the model "
                "with one of them."
            )


def _check_projection(ffn: FFN, module: nn.Module, names: Mapping[tuple[Any, ...], list[str]]) -> torch.device:
    """Return the device of a projection's weight, or raise an error if the weight cannot be rearranged."""
    problem = describe_problem(module)
    if problem is None:
        owners = names[_memory(module.weight)]  # type: ignore[arg-type]  # `describe_problem` has checked it
        if len(owners) > 1:
            problem = f"its weight is tied: {', '.join(owners)} are one parameter"
    if problem is not None:
        role = "down" if module is ffn.down else "input"
        raise ModelError(
            f"accelerate: the {role} projection of {ffn.name} ({type(module).__name__}) cannot be accelerated, because "
            f"{problem}: {SUPPORTED}. {REMEDY}."
        )
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight.device


def describe_problem(module: nn.Module) -> str | None:
    """Return why the weight of a projection cannot be rearranged, or None if it can.

    Args:
        module: The projection.
    """
    from transformers.pytorch_utils import Conv1D

    weight = module._parameters.get("weight")
    if type(module) not in (nn.Linear, Conv1D):
        problem = "it is a layer of another kind (quantised, wrapped by an adapter, or a class of its own)"
    elif weight is None:
        problem = "its weight is computed (pruned or parametrized)"
    elif type(weight) is not nn.Parameter or type(weight.data) is not torch.Tensor:
        problem = f"its weight is a {type(weight.data).__name__} (sharded or quantised)"
    elif weight.device.type == "meta" or hasattr(module, "_hf_hook"):
        problem = "its weight is offloaded or moved by hooks"
    elif not weight.is_floating_point():
        problem = f"its weight is {dtype_name(weight.dtype)}"
    else:
        problem = None
    return problem


def _parameter_names(model: nn.Module) -> Mapping[tuple[Any, ...], list[str]]:
    """Return the names of all parameters by the memory that they use."""
    names: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[_memory(parameter)].append(name)
    return names


def _memory(parameter: torch.Tensor) -> tuple[Any, ...]:
    return parameter.device, parameter.data_ptr() or id(parameter)
