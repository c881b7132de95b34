"""Rules that weigh each entry of a vector with the weights that it is multiplied by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsedial.rules.base import Rule, VectorRule
from sparsedial.rules.calibration import stacked_reason


@dataclass(frozen=True, eq=False)
class WeightedScores:
    """A rule for the scores ``|v_j| * norms_j`` in place of the magnitudes ``|v_j|``.

    Attributes:
        rule: The rule that selects entries by their scores.
        norms: Factor of each entry, float64 of shape [D].
    """

    rule: VectorRule
    norms: torch.Tensor

    def keep_mask(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """Return which entries of each vector are kept.

        Args:
            magnitudes: Absolute values of the vectors, float64 of shape [N, D].
        """
        return self.rule.keep_mask(magnitudes * self.norms.to(magnitudes.device))


@dataclass(frozen=True)
class WeightedRule(Rule):
    """Base class of rules whose scores contain the weights that multiply the vector."""

    def undefined_reason(self, ffn: Any, vector: str, width: int) -> str | None:
        """Return why the rule is not defined for a vector: see `unreadable_reason`.

        Args:
            ffn: The FFN.
            vector: Name of the vector.
            width: Number of entries of the vector.
        """
        return unreadable_reason(ffn, vector)


def column_norms(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the L2 norm of each column of matrices that are stacked on top of each other.

    Args:
        matrices: Weights that multiply one vector, each of shape [outputs, D].

    Returns:
        Float64 tensor of shape [D], on the device of the first matrix.

    Example:
        >>> column_norms([torch.tensor([[3.0, 0.0]]), torch.tensor([[4.0, 1.0]])])
        tensor([5., 1.], dtype=torch.float64)
    """
    device = matrices[0].device
    norms = [torch.linalg.vector_norm(matrix.detach(), dim=0, dtype=torch.float64).to(device) for matrix in matrices]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)


def unreadable_reason(ffn: Any, vector: str) -> str | None:
    """Return why the weights that multiply a vector cannot be read, or None if they can.

    Args:
        ffn: The FFN.
        vector: Name of the vector.
    """
    if ffn.stacked_module is not None:
        return stacked_reason(ffn)
    if not ffn.reading_projections(vector):
        return "no projection reads this vector. Choose the site input, intermediate or all_inputs"
    if ffn.reading_matrices(vector) is None:
        return (
            "the weights that read it are quantised, wrapped by an adapter or not loaded. Merge the adapter, or load "
            "the model without quantisation"
        )
    return None
