"""Whether a kernel can be called directly, without PyTorch's dispatcher."""

from __future__ import annotations

import torch


def dispatcher_is_unobserved() -> bool:
    """Return True if nothing observes torch's operators.

    Observers are compilers, dispatch modes (fake tensors, tracers), profilers, `torch.func` transforms, forward-mode
    differentiation and `torch.jit.trace`.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch.autograd.profiler._is_profiler_enabled
        or is_transformed()
    )


def kernel_can_read(x: torch.Tensor) -> bool:
    """Return True if a kernel finds the values of a tensor at its address.

    It does not if the tensor is sparse or lazily negated, or inside of `torch.func` transforms, forward-mode
    differentiation and `torch.jit.trace`.

    Args:
        x: The tensor.
    """
    return not is_transformed() and x.layout is torch.strided and not x.is_neg()


def is_transformed() -> bool:
    """Return True inside of `torch.func` transforms, forward-mode differentiation and `torch.jit.trace`."""
    return (
        torch._C._functorch.maybe_current_level() is not None
        or torch._C._get_tracing_state() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )
