"""The rule CETT: the largest threshold whose error of the FFN's output stays below a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from sparsedial.rules.base import Rule, VectorRule
from sparsedial.rules.calibration import DEFAULT_TOKENS, SAMPLES, Calibration, check_calibration_data, find_entry
from sparsedial.rules.threshold import AboveThreshold, compute_quantiles
from sparsedial.rules.weighted import WeightedScores, column_norms, unreadable_reason

LEVELS = 65
"""Number of thresholds for which a calibration keeps the error."""

MAX_TOKENS = 128
"""Number of tokens on which the error is computed, for each FFN. The first ones are used."""


@dataclass(frozen=True)
class Cett(Rule):
    """Keep the neurons whose output is above a threshold, which is set by the error that dropping the others causes.

    The output of neuron j is ``i_j * W_:j``, where i is the intermediate vector and W the matrix of the down
    projection. Its score is the norm ``|i_j| * ||W_:j||_2``. For a threshold t, the neurons with scores of at most t
    form the tail. CETT, the cumulative error of tail truncation, is the L2 norm of the sum of their outputs divided by
    that of the FFN's output without its bias, averaged over the tokens of the calibration data. Each FFN has the
    largest t whose CETT is at most ``tail_error``, interpolated linearly between 65 quantiles of the scores.
    ``tail_error = 0`` keeps every non-zero entry. ``tail_error = 1`` keeps what exceeds every score in the calibration
    data. Source: Sparsing Law, arXiv 2411.02335, section 3.

    Args:
        tail_error: Largest mean relative error of the FFN's output, in [0, 1].
        data: Name of a task whose first examples are the calibration data. Defaults to "samples": texts that are
            sampled from the model.
        tokens: Number of tokens of the calibration data, at least 64. Defaults to 1024.
    """

    tail_error: float
    data: str = SAMPLES
    tokens: int = DEFAULT_TOKENS
    name: ClassVar[str] = "cett"
    dense_value: ClassVar[float] = 0.0
    sparsest_value: ClassVar[float] = 1.0
    needs_calibration: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_calibration_data(self)
        object.__setattr__(self, "tokens", int(self.tokens))  # it may be a number of NumPy

    def undefined_reason(self, ffn: Any, vector: str, width: int) -> str | None:
        """Return why the rule is not defined for a vector, or None if it is the vector that the down projection reads.

        Args:
            ffn: The FFN.
            vector: Name of the vector.
            width: Number of entries of the vector.
        """
        if vector != "intermediate":
            return "the outputs of neurons are those of the down projection. Choose the site intermediate"
        return unreadable_reason(ffn, vector)

    def bind(self, ffn: Any, vector: str, calibration: Calibration | None) -> VectorRule:
        """Return the rule for one FFN.

        Args:
            ffn: The FFN.
            vector: "intermediate".
            calibration: Calibration of this model at the site intermediate.
        """
        entry = find_entry(calibration, self, ffn, vector)
        if self.tail_error == self.dense_value:
            return AboveThreshold(0.0)
        threshold = find_threshold(entry["thresholds"], entry["errors"], self.tail_error)
        return WeightedScores(AboveThreshold(threshold), column_norms(ffn.reading_matrices(vector)))

    @classmethod
    def calibrate_vector(cls, vectors: torch.Tensor, ffn: Any, vector: str) -> Mapping[str, Any]:
        """Return thresholds and their errors.

        Args:
            vectors: Values of the intermediate vector, shape [tokens, D].
            ffn: The FFN.
            vector: "intermediate".
        """
        [weight] = ffn.reading_matrices(vector)
        vectors = vectors[:MAX_TOKENS].to(weight.device).float()
        norms = column_norms([weight])
        thresholds = compute_quantiles(vectors.abs() * norms, LEVELS).tolist()
        errors = truncation_errors(vectors, weight.detach().float(), norms, thresholds)
        errors[-1] = 1.0  # the tail is the whole output
        return {"thresholds": thresholds, "errors": errors}


def truncation_errors(
    vectors: torch.Tensor, weight: torch.Tensor, norms: torch.Tensor, thresholds: Sequence[float]
) -> list[float]:
    """Return CETT at thresholds. Tokens for which the FFN's output is zero are left out.

    Args:
        vectors: Intermediate vectors, shape [tokens, D].
        weight: Matrix of the down projection, shape [outputs, D].
        norms: Norms of its columns, shape [D].
        thresholds: Largest score of the tail, for each error.

    Returns:
        The errors. 0 if the output is zero for all tokens.

    Example:
        >>> truncation_errors(torch.tensor([[3.0, 4.0]]), torch.eye(2), torch.ones(2), [2.5, 3.5])
        [0.0, 0.6000000238418579]
    """
    output = torch.linalg.vector_norm(vectors @ weight.T, dim=-1)
    is_nonzero = output > 0
    if not is_nonzero.any():
        return [0.0] * len(thresholds)
    vectors = vectors[is_nonzero]
    output = output[is_nonzero]
    scores = vectors.abs() * norms
    errors = []
    for threshold in thresholds:
        tail = torch.where(scores <= threshold, vectors, 0)
        error = torch.linalg.vector_norm(tail @ weight.T, dim=-1)
        errors.append(float((error / output).mean()))
    return errors


def find_threshold(thresholds: list[float], errors: list[float], limit: float) -> float:
    """Return the largest threshold whose error is at most a limit, interpolated linearly.

    Args:
        thresholds: Thresholds in ascending order.
        errors: Error of each.
        limit: The largest error.

    Example:
        >>> find_threshold([0.0, 1.0, 2.0], [0.0, 0.5, 1.0], 0.75)
        1.5
    """
    last = len(errors) - 1
    while last >= 0 and errors[last] > limit:
        last -= 1
    if last < 0:
        return 0.0
    if last == len(errors) - 1:
        return thresholds[last]
    share = (limit - errors[last]) / (errors[last + 1] - errors[last])
    return thresholds[last] + share * (thresholds[last + 1] - thresholds[last])
