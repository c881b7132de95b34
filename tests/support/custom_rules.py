"""Rules of a program of its own. Nothing in this module is registered."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsedial.errors import SparsedialError
from sparsedial.rules import Rule


@dataclass(frozen=True)
class AboveMean(Rule):
    """Keep the entries above a multiple of the mean, plus an offset."""

    factor: float
    offset: float = 0.0
    name: ClassVar[str] = "above_mean"
    dense_value: ClassVar[float] = 0.0
    sparsest_value: ClassVar[float] = 4.0

    def keep_mask(self, magnitudes):
        return magnitudes > self.factor * magnitudes.mean(-1, keepdim=True) + self.offset


@dataclass(frozen=True)
class WeightedTopK:
    """Keep the entries with the largest product of magnitude and weight."""

    weights: torch.Tensor
    share: float

    def keep_mask(self, magnitudes):
        products = magnitudes * self.weights.to(magnitudes)
        count = round(self.share * magnitudes.shape[-1])
        order = products.argsort(dim=-1, descending=True, stable=True)
        mask = torch.zeros_like(magnitudes, dtype=torch.bool)
        return mask.scatter(-1, order[:, :count], True)


@dataclass(frozen=True)
class ColumnTopK(Rule):
    """Keep the entries that matter most for the matrices that read the vector."""

    share: float
    name: ClassVar[str] = "column_top_k"

    def bind(self, ffn, vector, calibration):
        modules = ffn.input_projections if vector == "input" else [ffn.down]
        squares = sum(module.weight.detach().double().square().sum(0) for module in modules)
        return WeightedTopK(squares.sqrt(), self.share)


@dataclass(frozen=True)
class Threshold:
    """Keep the entries above a number."""

    threshold: float

    def keep_mask(self, magnitudes):
        return magnitudes > self.threshold


@dataclass(frozen=True)
class CalibratedThreshold(Rule):
    """Keep the entries above a number that differs between layers."""

    share: float
    name: ClassVar[str] = "calibrated_threshold"
    dense_value: ClassVar[float] = 0.0
    sparsest_value: ClassVar[float] = 1.0
    needs_calibration: ClassVar[bool] = True

    def bind(self, ffn, vector, calibration):
        return Threshold(self.share * calibration.values["scales"][ffn.layer])

    @classmethod
    def calibrate(cls, lm, ffns):
        if not len(ffns):
            raise SparsedialError("no FFN")
        return {"scales": [float(ffn.layer + 1) for ffn in ffns]}
