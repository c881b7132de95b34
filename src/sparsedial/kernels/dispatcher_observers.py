"""The state of torch's dispatcher."""

from __future__ import annotations

import torch


def dispatcher_is_unobserved() -> bool:
    """Return True if no compiler, dispatch mode (fake tensors, tracers) or profiler observes torch's operators."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch.autograd.profiler._is_profiler_enabled
    )
