"""A rule with one threshold for each FFN, which is calibrated on the model.

The thresholds are quantiles of the magnitudes in a forward pass, as in TEAL (arXiv 2408.14690).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

import sparsedial as sd

TOKENS = 64
QUANTILES = 201


@dataclass(frozen=True)
class Threshold:
    """The rule for the vectors of one FFN: keep the entries whose magnitude is above a number.

    Attributes:
        threshold: The number.
    """

    threshold: float

    def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return which entries are kept.

        Args:
            magnitudes: Absolute values, float64 of shape [N, D].
        """
        return magnitudes > self.threshold


@sd.register_rule
@dataclass(frozen=True)
class LayerThreshold(sd.Rule):
    """Keep the entries above a threshold, which is a quantile of the magnitudes that were seen in calibration.

    Args:
        share: Share of the entries that are below the threshold, in [0, 1]. 0 keeps every non-zero entry.
    """

    share: float
    name: ClassVar[str] = "layer_threshold"
    version: ClassVar[int] = 1
    dense_value: ClassVar[float] = 0.0
    sparsest_value: ClassVar[float] = 1.0
    needs_calibration: ClassVar[bool] = True

    def bind(self, ffn: sd.FFN, vector: str, calibration: sd.Calibration | None) -> Threshold:
        """Return the rule for one vector of one FFN.

        Args:
            ffn: The FFN.
            vector: "input" or "intermediate".
            calibration: What `calibrate` returned.
        """
        if calibration is None or vector not in ("input", "intermediate"):
            raise sd.SparsedialError(f"{self.name}: expected the vector input or intermediate, got {vector!r}")
        if self.share == 0.0:
            return Threshold(0.0)
        quantiles = torch.tensor(calibration.values[ffn.name][vector], dtype=torch.float64)
        return Threshold(float(torch.quantile(quantiles, self.share)))

    @classmethod
    def calibrate(cls, lm: Any, ffns: sd.FFNs) -> Mapping[str, Any]:
        """Return quantiles of the magnitudes of each vector in one forward pass over random tokens.

        Args:
            lm: The model.
            ffns: Its FFNs.
        """
        quantiles: dict[str, dict[str, list[float]]] = {}
        hooks = []

        def observe(ffn: sd.FFN, vector: str, module: torch.nn.Module) -> None:
            def hook(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
                levels = torch.linspace(0, 1, QUANTILES, dtype=torch.float64)
                magnitudes = arguments[0].abs().double().flatten().cpu()
                quantiles.setdefault(ffn.name, {})[vector] = torch.quantile(magnitudes, levels).tolist()

            hooks.append(module.register_forward_pre_hook(hook))

        for ffn in ffns:
            observe(ffn, "input", ffn.input_projections[0])
            observe(ffn, "intermediate", ffn.down)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(lm.model.config.vocab_size, (1, TOKENS), generator=generator)
        try:
            with torch.inference_mode():
                lm.model(tokens.to(lm.device))
        finally:
            for handle in hooks:
                handle.remove()
        return quantiles
