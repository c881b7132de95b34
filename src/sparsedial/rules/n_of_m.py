"""The rule N:M: a fixed number of each group of consecutive entries is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import torch

from sparsedial.errors import SpecError
from sparsedial.rules.base import Rule, keep_largest


@dataclass(frozen=True)
class NOfM(Rule):
    """Keep the ``n`` largest magnitudes of each ``m`` consecutive entries, with ``n = floor(fraction * m + 1/2)``.

    The groups begin at the first entry of the vector and do not overlap. Among entries of equal magnitude in a group,
    those with the lowest index are kept first. Exactly ``n`` entries of each group are kept. They include zeros if the
    group has fewer than ``n`` non-zero entries. The pattern 2:4 is that of the sparse tensor cores of NVIDIA GPUs
    (arXiv 2104.08378). 8:16 and 16:32 are the patterns of the same sparsity with larger groups.

    Args:
        fraction: Share of the entries of a group to keep, in [0, 1].
        m: Number of entries of a group. Defaults to 4. It has to divide the number of entries of the vector.

    Example:
        >>> import torch, sparsedial as sd
        >>> sd.apply_rule(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0, 0.1, 0.3, -0.2]), NOfM(0.5))
        (tensor([ 4.0000,  3.0000,  0.0000,  0.0000,  0.0000,  0.0000,  0.3000, -0.2000]), tensor(4, dtype=torch.int32))
        >>> NOfM.from_pattern("8:16")
        NOfM(fraction=0.5, m=16)
    """

    fraction: float
    m: int = 4
    name: ClassVar[str] = "n_of_m"

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", self._check_parameter("fraction", self.fraction))
        if not isinstance(self.m, Integral) or isinstance(self.m, bool) or self.m < 1:
            raise SpecError(f"NOfM(m={self.m!r}): expected a whole number of at least 1")
        object.__setattr__(self, "m", int(self.m))

    @classmethod
    def from_pattern(cls, pattern: str) -> NOfM:
        """Return the rule for a pattern.

        Args:
            pattern: The numbers of kept entries and of all entries of a group, such as "2:4".

        Raises:
            SpecError: The pattern is not of this form, or the first number is larger than the second one.
        """
        numbers = pattern.split(":") if isinstance(pattern, str) else []
        if len(numbers) != 2 or not all(number.strip().isdecimal() for number in numbers):
            raise SpecError(f"pattern {pattern!r}: expected two whole numbers such as 2:4")
        n, m = map(int, numbers)
        if not 0 <= n <= m or m == 0:
            raise SpecError(f"pattern {pattern!r}: expected at most as many kept entries as entries, such as 2:4")
        return cls(n / m, m)

    @property
    def value(self) -> float:
        """The parameter ``fraction``."""
        return self.fraction

    @property
    def n(self) -> int:
        """Number of entries of a group that are kept."""
        return min(self.m, math.floor(self.fraction * self.m + 0.5))

    def representative(self) -> NOfM:
        """Return the rule that keeps the same number of entries, and whose fraction is ``n / m``."""
        return NOfM(self.n / self.m, self.m)

    def undefined_reason(self, ffn: Any, vector: str, width: int) -> str | None:
        """Return why the rule is not defined for a vector, or None if ``m`` divides its number of entries.

        Args:
            ffn: The FFN.
            vector: Name of the vector.
            width: Number of entries of the vector.
        """
        if width % self.m == 0:
            return None
        return f"groups of m = {self.m} do not divide its {width} entries. Choose an m that divides {width}"

    def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return which entries of each vector are kept.

        Args:
            magnitudes: Absolute values of the vectors, float64 of shape [N, D].

        Raises:
            SpecError: ``m`` does not divide D.
        """
        width = magnitudes.shape[-1]
        if width % self.m:
            raise SpecError(f"rule {self!r}: a vector of {width} entries: {self.undefined_reason(None, '', width)}.")
        groups = magnitudes.reshape(-1, self.m)
        kept = torch.full((len(groups),), self.n, device=magnitudes.device)
        return keep_largest(groups, lambda _: kept).reshape(magnitudes.shape)
