"""A rule that needs the vector only, and a kernel for it."""

from dataclasses import dataclass
from typing import ClassVar

import torch

import sparsedial as sd


@sd.register_rule
@dataclass(frozen=True)
class AboveMean(sd.Rule):
    """Keep the entries whose magnitude is above ``factor`` times the mean magnitude of the vector.

    Args:
        factor: The threshold, in units of the mean, in [0, 8]. 0 keeps every non-zero entry.
    """

    factor: float
    name: ClassVar[str] = "above_mean"
    version: ClassVar[int] = 1
    dense_value: ClassVar[float] = 0.0
    sparsest_value: ClassVar[float] = 8.0

    def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return which entries are kept.

        Args:
            magnitudes: Absolute values, float64 of shape [N, D].
        """
        return magnitudes > self.factor * magnitudes.mean(-1, keepdim=True)

    @classmethod
    def value_at(cls, distance: float) -> float:
        """Return the value for a step of the adaptive search: small factors are more interesting than large ones.

        Args:
            distance: 0 at the dense value, 1 at the sparsest value.
        """
        return cls.sparsest_value * distance**2

    @classmethod
    def distance_from_dense(cls, value: float) -> float:
        """Return the inverse of `value_at`.

        Args:
            value: A factor.
        """
        return (value / cls.sparsest_value) ** 0.5


@sd.register_kernel(AboveMean, "cpu")
def select_on_cpu(x: torch.Tensor, rule: AboveMean) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply the rule with fewer copies than its definition needs.

    Args:
        x: Vectors of shape [..., D].
        rule: The rule.

    Returns:
        The sparse vectors and the number of kept entries. -1 for vectors with a NaN or an infinity.
    """
    if not x.numel():
        return x.contiguous(), x.new_zeros(x.shape[:-1], dtype=torch.int32)
    magnitudes = x.abs().double()
    total = magnitudes.sum(-1, keepdim=True)
    is_finite = total.isfinite()
    keep = (magnitudes > rule.factor * (total / x.shape[-1])) & is_finite
    y = torch.where(keep | ~is_finite, x, 0).contiguous()
    return y, torch.where(is_finite[..., 0], keep.sum(-1), -1).to(torch.int32)
