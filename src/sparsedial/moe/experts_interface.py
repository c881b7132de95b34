"""Registration of `experts_forward` with transformers' experts interface.

transformers keeps a registry of functions that run stacked experts. The ``forward`` of a module that stacks experts
reads ``self.config._experts_implementation`` and calls the function that is registered under this name.
`add_transform` replaces the ``config`` of one module with a `ConfigProxy`, whose ``_experts_implementation`` is the
name of this package's function. Other layers and the model's ``config`` are not changed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from sparsedial.moe.config_proxy import IMPLEMENTATION_NAME, ConfigProxy
from sparsedial.moe.experts_forward import TransformFunctions, experts_forward
from sparsedial.tracing_state import is_tracing

_REQUIRED_ATTRIBUTES = ("has_gate", "has_bias", "is_transposed", "_apply_gate", "down_proj", "config")


class _InterfaceProbe:
    """Placeholder that `uses_experts_interface` passes to a ``forward`` in place of a module."""

    config = ConfigProxy(None)


def register_experts_forward() -> None:
    """Register `experts_forward` with transformers. Repeated calls have no effect."""
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION_NAME, _dispatch)


def uses_experts_interface(module: nn.Module) -> bool:
    """Return True if a module runs its experts through transformers' experts interface.

    Neither the module's class nor its ``forward`` is marked by transformers, so ``forward`` has to be called to find
    out. The experts of a real model must not be run, because they need routed inputs and may be offloaded. Therefore,
    ``forward`` is called as a plain function with the class `_InterfaceProbe` as ``self`` and None for all inputs. The
    only attribute of `_InterfaceProbe` is a `ConfigProxy`. A ``forward`` that uses the interface calls `_dispatch`,
    which recognises `_InterfaceProbe` and returns it. Any other ``forward`` raises an error when it reads a missing
    attribute or uses an input.

    Args:
        module: A module that may stack experts.

    Returns:
        True if the module's class uses the interface and the module has the attributes that `experts_forward` needs.
    """
    if not all(hasattr(module, name) for name in _REQUIRED_ATTRIBUTES):
        return False
    register_experts_forward()
    try:
        result = type(module).forward(_InterfaceProbe, None, None, None)
    except (AttributeError, KeyError, TypeError):  # KeyError: another registry is used, which has no such name.
        return False
    return result is _InterfaceProbe


def add_transform(module: nn.Module, name: str, transform: TransformFunctions) -> None:
    """Add a transformation of one vector, which the module then applies to all its experts.

    Args:
        module: The module, for which `uses_experts_interface` is True.
        name: Name of the vector ("input", "up", "gate" or "intermediate").
        transform: The transformation.
    """
    register_experts_forward()
    proxy: Any = module.config
    if not isinstance(proxy, ConfigProxy):
        proxy = ConfigProxy(module.config)
        module.config = proxy
    proxy.transforms[name] = transform


def remove_transform(module: nn.Module, name: str) -> None:
    """Remove the transformation of one vector. Removing the last one restores the original configuration.

    Args:
        module: The module that was passed to `add_transform`.
        name: Name of the vector.
    """
    proxy = module.config
    if not isinstance(proxy, ConfigProxy):
        return
    proxy.transforms.pop(name, None)
    if not proxy.transforms:
        module.config = proxy.config


def _dispatch(module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> Any:
    """Run `experts_forward` for a module. This is the function that is registered with transformers."""
    if module is _InterfaceProbe:
        return module
    transforms = {} if is_tracing() else module.config.transforms
    return experts_forward(module, hidden_states, top_k_index, top_k_weights, transforms)
