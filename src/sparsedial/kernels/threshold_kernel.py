"""Kernel of a fixed threshold, made of torch operations."""

from __future__ import annotations

from functools import lru_cache

import torch

from sparsedial.kernels.kernel_registry import register_kernel
from sparsedial.rules.threshold import AboveThreshold


@register_kernel(AboveThreshold, "cpu")
@register_kernel(AboveThreshold, "cuda")
def select_above_threshold(x: torch.Tensor, rule: AboveThreshold) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the entries above a threshold. The result is that of the definition, `AboveThreshold.keep_mask`.

    Args:
        x: Vectors, shape [..., D].
        rule: The threshold.

    Returns:
        The vectors without the dropped entries, and the number of kept entries, -1 for vectors with NaN or infinity.
    """
    x = x.contiguous()
    magnitudes = x.abs()
    keep = magnitudes > _round_down(rule.threshold, x.dtype, x.device)
    is_finite = torch.isfinite(magnitudes).all(-1, keepdim=True)
    y = torch.where(keep | ~is_finite, x, torch.zeros((), dtype=x.dtype, device=x.device))
    kept = torch.where(is_finite[..., 0], keep.sum(-1), -1)
    return y, kept.to(torch.int32)


@lru_cache(maxsize=4096)
def _round_down(threshold: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the largest number of a dtype that is at most a threshold, so that no magnitude has to be converted."""
    rounded = torch.tensor(threshold, dtype=torch.float64).to(dtype)
    if rounded.double() > threshold:
        rounded = torch.nextafter(rounded, torch.zeros((), dtype=dtype))
    return rounded.to(device)
