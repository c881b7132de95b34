"""Kernels that are registered for rules that are not built in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from sparsedial.errors import SpecError
from sparsedial.rules import MaxP, TopK, TopP

Select = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""The signature of every backend: ``select(x, rule, kept=None, warm_start=False) -> (y, kept)``."""

Kernel = Callable[[torch.Tensor, Any], tuple[torch.Tensor, torch.Tensor]]
KernelT = TypeVar("KernelT", bound=Kernel)

_kernels: dict[tuple[type[Any], str], Kernel] = {}


def register_kernel(rule_class: type[Any], device_type: str) -> Callable[[KernelT], KernelT]:
    """Return a decorator that registers a kernel: a function that computes a rule on one type of device.

    Without a kernel, a rule is computed from its definition, `Rule.keep_mask`. `sparsedial.testing.check_kernel` checks
    that a kernel keeps the same entries.

    Args:
        rule_class: Class of the rule, or of what its method `bind` returns. Its subclasses do not use the kernel.
        device_type: Type of a torch device, such as "cpu" or "cuda".

    Returns:
        Decorator of a function of ``(x, rule)``. x has shape [..., D] and any strides, and must not be changed. The
        function returns ``(y, kept)`` as `apply_rule` does: y is contiguous, and kept is int32. A `SpecError` is raised
        if another kernel is registered already.

    Raises:
        SpecError: The class is a built-in rule, whose kernels cannot be replaced, or the device type is unknown.

    Example:
        >>> from sparsedial.kernels import reference
        >>> class Positive:
        ...     def keep_mask(self, magnitudes):
        ...         return magnitudes > 0
        >>> @register_kernel(Positive, "cpu")
        ... def select_positive(x, rule):
        ...     return x.clone(), (x != 0).sum(-1, dtype=torch.int32)
    """
    if not isinstance(rule_class, type) or not callable(getattr(rule_class, "keep_mask", None)):
        raise SpecError(f"register_kernel: expected a class with the method keep_mask, got {rule_class!r}")
    if rule_class in (TopP, TopK, MaxP):
        raise SpecError(f"register_kernel: {rule_class.__name__} is built in, so its kernels cannot be replaced")
    try:
        torch.device(device_type)
    except (RuntimeError, TypeError) as error:
        raise SpecError(f"register_kernel: device type {device_type!r}: {str(error).splitlines()[0]}") from None
    key = (rule_class, device_type)

    def add(kernel: KernelT) -> KernelT:
        previous: Any = _kernels.get(key)
        if previous is not None and _source(previous) != _source(kernel):
            raise SpecError(
                f"register_kernel: {_source(kernel)}: {rule_class.__name__} has a kernel for {device_type!r} already, "
                f"{_source(previous)}"
            )
        _kernels[key] = kernel
        return kernel

    return add


def find_kernel(rule_class: type[Any], device_type: str) -> Select | None:
    """Return the kernel of a rule on a type of device, with the signature of a backend. None if there is none.

    Args:
        rule_class: Class of the rule.
        device_type: Type of a torch device.
    """
    kernel = _kernels.get((rule_class, device_type))
    if kernel is None:
        return None

    def select(
        x: torch.Tensor, rule: Any, kept: torch.Tensor | None = None, warm_start: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return kernel(x, rule)

    return select


def _source(kernel: Any) -> str:
    return f"{kernel.__module__}.{getattr(kernel, '__qualname__', type(kernel).__qualname__)}"
