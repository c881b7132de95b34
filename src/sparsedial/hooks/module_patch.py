"""Replacement of the first argument or of the output of a module.

The patches replace the instance's ``forward``. A forward hook would disable the fast path of ``nn.Module.__call__``,
whose overhead is a large part of a decode step, and code that torch.compile compiled earlier would not see it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsedial.tracing_state import is_tracing

Apply = Callable[[torch.Tensor], torch.Tensor]


class ForwardPatch:
    """Replacement of a module's ``forward`` until `remove` is called.

    A copy of the module that is made with `copy.deepcopy` is not patched.

    Args:
        module: Module whose forward is replaced.
        apply: Function that replaces a tensor.
    """

    def __init__(self, module: nn.Module, apply: Apply) -> None:
        self._module = module
        self._apply = apply
        self.instance_forward = vars(module).get("forward")  # set on the instance by other code, such as accelerate
        self._inner: Callable[..., Any] = module.forward
        self._parameters: Any = module._parameters
        self._forward = module.forward = self._select_forward()

    @property
    def is_removed(self) -> bool:
        """True if the patch has no effect any more, also while another one covers it."""
        return self._apply is _identity

    def remove(self) -> None:
        """Restore the module. If ``forward`` was replaced again after this patch, only stop changing tensors."""
        if vars(self._module).get("forward") is not self._forward:
            self._apply = _identity
        else:
            _restore_forward(self._module, self._uncovered_forward())

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardPatch:
        """Return a patch without effect, for a copy of the module. It is removed when the copy is called."""
        module = memo.get(id(self._module))
        if module is None:
            return self
        patch = object.__new__(type(self))
        patch._module = module
        patch._apply = _identity
        patch.instance_forward = deepcopy(self.instance_forward, memo)
        patch._parameters = {}

        def call_unpatched(*args: Any, **kwargs: Any) -> Any:
            _restore_forward(module, patch.instance_forward)
            return module.forward(*args, **kwargs)

        patch._inner = call_unpatched
        return patch

    def _uncovered_forward(self) -> Any:
        """Return the forward that the module had before, without patches that were removed in the meantime."""
        forward = self.instance_forward
        patch = getattr(forward, "__self__", None)
        while isinstance(patch, ForwardPatch) and patch.is_removed:
            forward = patch.instance_forward
            patch = getattr(forward, "__self__", None)
        return forward

    def _select_forward(self) -> Callable[..., Any]:
        """Return the method that replaces the module's forward."""
        raise NotImplementedError


class InputPatch(ForwardPatch):
    """Patch that passes a module's first argument through a function until `remove` is called.

    It runs after the module's forward pre-hooks.

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

    def _select_forward(self) -> Callable[..., Any]:
        is_linear = type(self._module) is nn.Linear and self.instance_forward is None
        return self._call_linear if is_linear else self._call_module

    def _call_module(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs:
            return self._inner(self._apply(args[0]))
        args, kwargs = _replace_first(self._apply, args, kwargs)
        return self._inner(*args, **kwargs)

    def _call_linear(self, input: torch.Tensor) -> torch.Tensor:
        """Compute the result of `nn.Linear.forward` with one Python frame and two look-ups fewer."""
        x = self._apply(input)
        parameters = self._parameters
        try:
            weight = parameters["weight"]
            bias = parameters["bias"]
        except KeyError:  # pruned or parametrized: the weight is computed for each call
            return self._inner(x)
        return nn.functional.linear(x, weight, bias)


class OutputPatch(ForwardPatch):
    """Patch that passes a module's output through a function until `remove` is called.

    Args:
        module: Module whose output is replaced.
        apply: Function from the output to its replacement.

    Example:
        >>> identity = nn.Identity()
        >>> patch = OutputPatch(identity, lambda x: 2 * x)
        >>> identity(torch.ones(2))
        tensor([2., 2.])
        >>> patch.remove()
    """

    def _select_forward(self) -> Callable[..., Any]:
        return self._call_module

    def _call_module(self, *args: Any, **kwargs: Any) -> Any:
        return self._apply(self._inner(*args, **kwargs))


def register_input_pre_hook(module: nn.Module, apply: Apply) -> RemovableHandle:
    """Pass a module's first argument through a function, before any `InputPatch` of the module.

    Args:
        module: Module whose input is replaced.
        apply: Function from the input to its replacement.

    Returns:
        Handle that removes the hook.
    """

    def hook(
        called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if is_tracing() or called is not module:  # a copy of the module has the hook, too
            return args, kwargs
        return _replace_first(apply, args, kwargs)

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


def _restore_forward(module: nn.Module, instance_forward: Any) -> None:
    if instance_forward is None:
        vars(module).pop("forward", None)
    else:
        module.forward = instance_forward


def _replace_first(
    apply: Apply, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (apply(args[0]), *args[1:]), kwargs
    name = next(iter(kwargs))
    return args, {**kwargs, name: apply(kwargs[name])}
