"""Replacement of the first argument of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsedial.tracing_state import is_tracing

Apply = Callable[[torch.Tensor], torch.Tensor]


class InputPatch:
    """Patch that passes a module's first argument through a function until `remove` is called.

    The patch replaces the instance's ``forward``, so it runs after the module's forward pre-hooks. A hook would disable
    the fast path of ``nn.Module.__call__``, whose overhead is a large part of a decode step.

    Args:
        module: Module whose input is replaced.
        apply: Function from the input to its replacement.

    Example:
        >>> identity = nn.Identity()
        >>> patch = InputPatch(identity, lambda x: 2 * x)
        >>> identity(torch.ones(2))
        tensor([2., 2.])
        >>> patch.remove()
        >>> identity(torch.ones(2)), "forward" in vars(identity)
        (tensor([1., 1.]), False)
    """

    def __init__(self, module: nn.Module, apply: Apply) -> None:
        self._module = module
        self._instance_forward = vars(module).get("forward")  # set on the instance by other code, such as accelerate
        inner = module.forward
        parameters = module._parameters

        def forward(*args: Any, **kwargs: Any) -> Any:
            if len(args) == 1 and not kwargs:
                return inner(apply(args[0]))
            args, kwargs = _replace_first(apply, args, kwargs)
            return inner(*args, **kwargs)

        def linear(input: torch.Tensor) -> torch.Tensor:
            """Compute the result of `nn.Linear.forward` with one Python frame and two look-ups fewer."""
            x = apply(input)
            try:
                weight = parameters["weight"]
                bias = parameters["bias"]
            except KeyError:  # pruned or parametrized: the weight is computed for each call
                return inner(x)
            return nn.functional.linear(x, weight, bias)  # type: ignore[arg-type]  # the weight is not None

        def disable() -> None:
            nonlocal apply
            apply = _identity

        self._disable = disable
        is_linear = type(module) is nn.Linear and self._instance_forward is None
        self._forward = module.forward = linear if is_linear else forward

    def remove(self) -> None:
        """Restore the module. If ``forward`` was replaced again after this patch, only stop changing the input."""
        if vars(self._module).get("forward") is not self._forward:
            self._disable()
        elif self._instance_forward is None:
            del self._module.forward
        else:
            self._module.forward = self._instance_forward


def register_input_pre_hook(module: nn.Module, apply: Apply) -> RemovableHandle:
    """Pass a module's first argument through a function, before any `InputPatch` of the module.

    Args:
        module: Module whose input is replaced.
        apply: Function from the input to its replacement.

    Returns:
        Handle that removes the hook.
    """

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if is_tracing():
            return args, kwargs
        return _replace_first(apply, args, kwargs)

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


def _replace_first(
    apply: Apply, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (apply(args[0]), *args[1:]), kwargs
    name = next(iter(kwargs))
    return args, {**kwargs, name: apply(kwargs[name])}
