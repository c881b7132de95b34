"""Computation of the rules: the operator `torch.ops.sparsedial.select`, its reference backend and its fast backends."""

from sparsedial.kernels.dispatch import apply_rule
from sparsedial.kernels.kernel_registry import register_kernel

__all__ = ["apply_rule", "register_kernel"]
