"""Whether a kernel can be called directly, without PyTorch's dispatcher."""

from __future__ import annotations

import torch


def dispatcher_is_unobserved() -> bool:
    """Return True if no compiler, dispatch mode (fake tensors, tracers) or profiler observes torch's operators."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch.autograd.profiler._is_profiler_enabled
    )


def kernel_can_read(x: torch.Tensor) -> bool:
    """Return True if a kernel finds the values of a tensor at its address.

    It does not if the tensor is sparse or lazily negated, or inside of `torch.func` transforms, forward-mode
    differentiation and `torch.jit.trace`.

    Args:
        x: The tensor.
    """
    return (
        torch._C._functorch.maybe_current_level() is None
        and torch._C._get_tracing_state() is None
        and torch.autograd.forward_ad._current_level < 0
        and x.layout is torch.strided
        and not x.is_neg()
    )
