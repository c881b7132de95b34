"""The rule weighted top-p: the fewest entries that hold a share of the sum of magnitude times weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sparsedial.rules.base import VectorRule
from sparsedial.rules.builtin import TopP
from sparsedial.rules.calibration import Calibration
from sparsedial.rules.threshold import AboveThreshold
from sparsedial.rules.weighted import WeightedRule, WeightedScores, column_norms


@dataclass(frozen=True)
class WeightedTopP(WeightedRule):
    """Keep the fewest entries, largest score first, whose scores ``|v_j| * ||W_:j||_2`` reach ``p`` times their sum.

    W is the matrix that multiplies the vector. If several matrices do, such as those of up and gate, W consists of
    their rows. Among equal scores, the lowest index is kept first. ``p = 1`` keeps every non-zero entry. Source: the
    scores of WINA (arXiv 2505.19427, section 3) in the rule top-p (arXiv 2509.00454, section 3).

    Args:
        p: Share of the sum of the scores to keep, in [0, 1].
    """

    p: float
    name: ClassVar[str] = "weighted_top_p"

    def bind(self, ffn: Any, vector: str, calibration: Calibration | None) -> VectorRule:
        """Return the rule for one vector of one FFN.

        Args:
            ffn: The FFN.
            vector: Name of a vector that projections read.
            calibration: Not used.
        """
        if self.p == self.dense_value:
            return AboveThreshold(0.0)  # entries whose weights are all zero are kept as well
        return WeightedScores(TopP(self.p), column_norms(ffn.reading_matrices(vector)))
