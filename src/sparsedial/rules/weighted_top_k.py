"""The rule weighted top-k: a fixed number of entries, chosen by magnitude times weight (WINA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sparsedial.rules.base import VectorRule
from sparsedial.rules.builtin import TopK
from sparsedial.rules.calibration import Calibration
from sparsedial.rules.weighted import WeightedRule, WeightedScores, column_norms


@dataclass(frozen=True)
class WeightedTopK(WeightedRule):
    """Keep the ``k`` entries with the largest scores ``|v_j| * ||W_:j||_2``, with ``k = floor(fraction * D + 1/2)``.

    W is the matrix that multiplies the vector. If several matrices do, such as those of up and gate, W consists of
    their rows. Among equal scores, the lowest index is kept first. Source: WINA, arXiv 2505.19427, section 3, which
    chooses the entries for each matrix separately.

    Args:
        fraction: Share of the entries to keep, in [0, 1].
    """

    fraction: float
    name: ClassVar[str] = "weighted_top_k"

    def bind(self, ffn: Any, vector: str, calibration: Calibration | None) -> VectorRule:
        """Return the rule for one vector of one FFN.

        Args:
            ffn: The FFN.
            vector: Name of a vector that projections read.
            calibration: Not used.
        """
        return WeightedScores(TopK(self.fraction), column_norms(ffn.reading_matrices(vector)))
