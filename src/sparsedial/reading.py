"""Changing what a module reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsedial.trace import watching

Apply = Callable[[torch.Tensor], torch.Tensor]


class Reading:
    """A module's first argument goes through ``apply``, until `remove`.

    It stands in the instance's ``forward``, after the module's forward pre-hooks: with hooks alone a module leaves
    torch's fast path, and a decode step is made of little else.

    >>> double = nn.Identity()
    >>> reading = Reading(double, lambda x: 2 * x)
    >>> double(torch.ones(2)), reading.remove(), double(torch.ones(2)), "forward" in vars(double)
    (tensor([2., 2.]), None, tensor([1., 1.]), False)
    """

    def __init__(self, module: nn.Module, apply: Apply) -> None:
        self._module = module
        self._own = vars(module).get("forward")  # one that somebody else has put there already
        inner, parameters = module.forward, module._parameters

        def forward(*args: Any, **kwargs: Any) -> Any:
            if len(args) == 1 and not kwargs:
                return inner(apply(args[0]))
            args, kwargs = _with_first(apply, args, kwargs)
            return inner(*args, **kwargs)

        def linear(input: torch.Tensor) -> torch.Tensor:
            """What `nn.Linear` does, less its frame and two look-ups: about what a dial's own frames cost."""
            x = apply(input)
            try:
                weight, bias = parameters["weight"], parameters["bias"]
            except KeyError:  # pruned or parametrized: the weight is made anew for each call
                return inner(x)
            return nn.functional.linear(x, weight, bias)  # type: ignore[arg-type]  # a weight is there

        def stop() -> None:
            nonlocal apply
            apply = _same

        self._stop = stop
        self._forward = module.forward = linear if type(module) is nn.Linear and self._own is None else forward

    def remove(self) -> None:
        """Leave the module as it was; where another has been put on top since, only pass on what comes."""
        if vars(self._module).get("forward") is not self._forward:
            self._stop()
        elif self._own is None:
            del self._module.forward
        else:
            self._module.forward = self._own


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def pre_hook(module: nn.Module, apply: Apply) -> RemovableHandle:
    """The same as a forward pre-hook, which comes before any `Reading`."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (args, kwargs) if watching() else _with_first(apply, args, kwargs)

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _with_first(apply: Apply, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (apply(args[0]), *args[1:]), kwargs
    name = next(iter(kwargs))
    return args, {**kwargs, name: apply(kwargs[name])}
