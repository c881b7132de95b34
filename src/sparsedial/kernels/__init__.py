"""Computation of the rules: the operator `torch.ops.sparsedial.select`, its reference backend and its fast backends."""

from sparsedial.kernels.dispatch import apply_rule

__all__ = ["apply_rule"]
