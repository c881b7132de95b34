"""The rule threshold: one threshold for each vector of each FFN, which is a quantile of calibrated magnitudes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from sparsedial.rules.base import Rule, VectorRule
from sparsedial.rules.calibration import (
    DEFAULT_TOKENS,
    SAMPLES,
    Calibration,
    check_calibration_data,
    find_entry,
    stacked_reason,
)

QUANTILE_LEVELS = 1001
"""Number of quantiles that a calibration keeps, from 0 to 1 in equal steps."""


@dataclass(frozen=True)
class AboveThreshold:
    """The rule that keeps the entries above a number.

    Attributes:
        threshold: The number.
    """

    threshold: float

    def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return which entries of each vector are kept.

        Args:
            magnitudes: Absolute values of the vectors, float64 of shape [N, D].
        """
        return magnitudes > self.threshold


@dataclass(frozen=True)
class Threshold(Rule):
    """Keep the entries with ``|v_j| > t``, where t is a quantile of the magnitudes in the calibration data.

    Each vector of each FFN has its own t. The quantile is interpolated linearly between 1001 empirical quantiles of all
    entries of the vector. On the calibration data, the sparsity is ``quantile``. ``quantile = 0`` keeps every non-zero
    entry, and ``quantile = 1`` keeps what exceeds every magnitude in the calibration data. Source: TEAL (arXiv
    2408.14690), whose threshold has the same quantile in all vectors unless it is optimised for each; with the site
    "gate", CATS (arXiv 2404.08763).

    Args:
        quantile: Share of the entries of the calibration data that are dropped, in [0, 1].
        data: Name of a task whose first examples are the calibration data. Defaults to "samples": texts that are
            sampled from the model.
        tokens: Number of tokens of the calibration data, at least 64. Defaults to 1024.
    """

    quantile: float
    data: str = SAMPLES
    tokens: int = DEFAULT_TOKENS
    name: ClassVar[str] = "threshold"
    dense_value: ClassVar[float] = 0.0
    sparsest_value: ClassVar[float] = 1.0
    needs_calibration: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_calibration_data(self)
        object.__setattr__(self, "tokens", int(self.tokens))  # it may be a number of NumPy

    def undefined_reason(self, ffn: Any, vector: str, width: int) -> str | None:
        """Return why the rule is not defined for a vector, or None: it is not for stacked experts.

        Args:
            ffn: The FFN.
            vector: Name of the vector.
            width: Number of entries of the vector.
        """
        return stacked_reason(ffn)

    def bind(self, ffn: Any, vector: str, calibration: Calibration | None) -> VectorRule:
        """Return the rule for one vector of one FFN.

        Args:
            ffn: The FFN.
            vector: Name of the vector.
            calibration: Calibration of this model at this site.
        """
        entry = find_entry(calibration, self, ffn, vector)
        if self.quantile == self.dense_value:
            return AboveThreshold(0.0)
        quantiles = torch.tensor(entry["quantiles"], dtype=torch.float64)
        return AboveThreshold(interpolate_quantile(quantiles, self.quantile))

    @classmethod
    def calibrate_vector(cls, vectors: torch.Tensor, ffn: Any, vector: str) -> Mapping[str, Any]:
        """Return the quantiles of the magnitudes of one vector.

        Args:
            vectors: Values of the vector, shape [tokens, D].
            ffn: The FFN.
            vector: Name of the vector.
        """
        return {"quantiles": compute_quantiles(vectors.abs(), QUANTILE_LEVELS).tolist()}


def compute_quantiles(values: torch.Tensor, levels: int) -> torch.Tensor:
    """Return empirical quantiles from 0 to 1 in equal steps, interpolated linearly between neighboring values.

    Args:
        values: Numbers, any shape and float dtype.
        levels: Number of quantiles.

    Returns:
        Float64 tensor of shape [levels], on the CPU.

    Example:
        >>> compute_quantiles(torch.tensor([3.0, 1.0, 2.0]), 5)
        tensor([1.0000, 1.5000, 2.0000, 2.5000, 3.0000], dtype=torch.float64)
    """
    ordered = values.flatten().sort().values.double().cpu()
    positions = torch.linspace(0, 1, levels, dtype=torch.float64) * (len(ordered) - 1)
    lower = positions.floor().long()
    upper = positions.ceil().long()
    return torch.lerp(ordered[lower], ordered[upper], positions - lower)


def interpolate_quantile(quantiles: torch.Tensor, level: float) -> float:
    """Return the quantile of a level from quantiles in equal steps.

    Args:
        quantiles: Quantiles from `compute_quantiles`, float64 of shape [levels].
        level: Level in [0, 1].
    """
    position = level * (len(quantiles) - 1)
    lower = min(int(position), len(quantiles) - 2)
    return float(torch.lerp(quantiles[lower], quantiles[lower + 1], position - lower))
