"""The built-in rules: top-p, top-k and max-p.

Their methods `keep_mask` are the definition that the kernels in `sparsedial.kernels` are tested against. They name
their fields where `Rule` would look them up, because torch.compile cannot trace the look-up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import torch

from sparsedial.errors import SpecError
from sparsedial.rules.base import Rule, keep_largest


@dataclass(frozen=True)
class TopP(Rule):
    """Keep the fewest entries, largest magnitude first, whose ``|v|**q`` add up to the share ``p`` of the sum.

    With the default ``q = 1``, this is the share ``p`` of the L1 norm. Among entries of equal magnitude, those with the
    lowest index are kept first. No entry of a zero vector is kept. ``p = 0`` keeps no entry, and ``p = 1`` keeps every
    non-zero entry. Source: arXiv 2509.00454, section 3, which also names the generalisation to q.

    Args:
        p: Share of the sum to keep, in [0, 1].
        q: Exponent of the magnitudes, above 0. Defaults to 1. A larger exponent drops more entries at the same p.

    Example:
        >>> import torch, sparsedial as sd
        >>> sd.apply_rule(torch.tensor([4.0, -3.0, 2.0, 1.0]), TopP(0.7))
        (tensor([ 4., -3.,  0.,  0.]), tensor(2, dtype=torch.int32))
    """

    p: float
    q: float = 1.0
    name: ClassVar[str] = "top_p"
    keeps_lowest_index_first: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", self._check_parameter("p", self.p))
        if self.q == 1.0 and type(self.q) is float:
            return
        if isinstance(self.q, bool) or not isinstance(self.q, Real) or not 0 < self.q < math.inf:
            raise SpecError(f"TopP(q={self.q!r}): expected a finite number above 0")
        object.__setattr__(self, "q", float(self.q))

    def __repr__(self) -> str:
        power = "" if self.q == 1.0 else f", q={self.q:g}"
        return f"TopP(p={self.p!r}{power})"

    @property
    def value(self) -> float:
        """The parameter ``p``."""
        return self.p

    def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return which entries of each vector are kept.

        Args:
            magnitudes: Absolute values of the vectors, float64 of shape [N, D].
        """
        if self.p == 1.0:
            return magnitudes > 0
        if self.p == 0.0:
            return torch.zeros_like(magnitudes, dtype=torch.bool)
        return keep_largest(magnitudes, self._count_kept)

    def _count_kept(self, ordered: torch.Tensor) -> torch.Tensor:
        nonzero = (ordered > 0).sum(-1)
        if self.q != 1.0:
            largest = ordered[:, :1].clamp_min(torch.finfo(ordered.dtype).tiny)  # the power of a share cannot overflow
            ordered = (ordered / largest) ** self.q
        mass = ordered.cumsum(-1)
        reaching = (mass < self.p * mass[:, -1:]).sum(-1) + 1  # includes the entry that reaches the target
        return torch.minimum(reaching, nonzero)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `rule_from_json` reads. It has no options if q is 1."""
        data = super().to_json()
        if self.q == 1.0:
            del data["options"]  # the key of such trials is older than q
        return data


@dataclass(frozen=True)
class TopK(Rule):
    """Keep the ``k`` largest magnitudes of the ``D`` entries, with ``k = floor(fraction * D + 1/2)``.

    Among entries of equal magnitude, those with the lowest index are kept first. Exactly ``k`` entries are kept. They
    include zeros if the vector has fewer than ``k`` non-zero entries.

    Args:
        fraction: Share of the entries to keep, in [0, 1].

    Example:
        >>> import torch, sparsedial as sd
        >>> sd.apply_rule(torch.tensor([1.0, -1.0, 0.5, 1.0]), TopK(0.5))
        (tensor([ 1., -1.,  0.,  0.]), tensor(2, dtype=torch.int32))
    """

    fraction: float
    name: ClassVar[str] = "top_k"
    keeps_lowest_index_first: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", self._check_parameter("fraction", self.fraction))

    @property
    def value(self) -> float:
        """The parameter ``fraction``."""
        return self.fraction

    def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return which entries of each vector are kept.

        Args:
            magnitudes: Absolute values of the vectors, float64 of shape [N, D].
        """
        rows, width = magnitudes.shape
        return keep_largest(magnitudes, lambda _: torch.full((rows,), self.count(width), device=magnitudes.device))

    def count(self, width: int) -> int:
        """Return the number of entries that are kept.

        Args:
            width: Number of entries of the vector.

        Returns:
            The number ``k``.
        """
        return min(width, math.floor(self.fraction * width + 0.5))


@dataclass(frozen=True)
class MaxP(Rule):
    """Keep every non-zero entry with ``|v| >= fraction * max|v|``, compared in float64.

    This rule is also known as min-p or as a relative threshold. ``fraction = 0`` keeps every non-zero entry, and
    ``fraction = 1`` keeps the entries that equal the maximum. No entry of a zero vector is kept. Unlike with the other
    rules, a larger parameter drops more entries.

    Args:
        fraction: Threshold as a share of the largest magnitude, in [0, 1].

    Example:
        >>> import torch, sparsedial as sd
        >>> sd.apply_rule(torch.tensor([4.0, -2.0, 1.0]), MaxP(0.5))
        (tensor([ 4., -2.,  0.]), tensor(2, dtype=torch.int32))
    """

    fraction: float
    name: ClassVar[str] = "max_p"
    dense_value: ClassVar[float] = 0.0
    sparsest_value: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", self._check_parameter("fraction", self.fraction))

    @property
    def value(self) -> float:
        """The parameter ``fraction``."""
        return self.fraction

    def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return which entries of each vector are kept.

        Args:
            magnitudes: Absolute values of the vectors, float64 of shape [N, D].
        """
        return (magnitudes >= self.fraction * magnitudes.amax(-1, keepdim=True)) & (magnitudes > 0)
