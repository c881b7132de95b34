"""The memory that a model needs on its device: weights, activations, logits and cached keys and values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sparsedial.inference.batch_size import default_rows
from sparsedial.inference.logit_budget import MAX_LOGITS
from sparsedial.models.loading import DTYPES
from sparsedial.models.model_outline import ModelOutline
from sparsedial.tasks.lm_eval.options import TOKENS_PER_BATCH_ROW
from sparsedial.tasks.workload import Workload

LIVE_HIDDEN_VECTORS = 6
"""Vectors of the hidden size that exist at once for each token: residual, its norm, queries, keys, values, output."""
LIVE_FFN_VECTORS = 4
"""Vectors of the width of an FFN that exist at once for each token: up, gate, intermediate, and its sparse copy."""
LOGIT_BYTES = 4


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of a model on its device, in bytes.

    Attributes:
        weights: The weights.
        activations: Vectors of one layer, for the tokens of one forward pass.
        logits: Logits of one forward pass.
        cache: Keys and values of the sequences that are generated at once.
    """

    weights: int
    activations: int
    logits: int
    cache: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.activations + self.logits + self.cache


def estimate_memory(outline: ModelOutline, workloads: Iterable[Workload], rows: int | None = None) -> MemoryNeed:
    """Return the memory that a model needs for its tasks.

    Args:
        outline: Shape of the model.
        workloads: Work of the tasks.
        rows: Rows per forward pass, of `TOKENS_PER_BATCH_ROW` tokens each. Defaults to None, which means the default of
            the device.
    """
    tokens = (rows or default_rows(outline.lm.device)) * TOKENS_PER_BATCH_ROW
    for work in workloads:
        tokens = max(tokens, work.longest_row)
    itemsize = DTYPES[outline.lm.dtype].itemsize
    vectors = LIVE_HIDDEN_VECTORS * outline.hidden_size + LIVE_FFN_VECTORS * outline.widest_vector
    return MemoryNeed(
        weights=outline.weight_bytes,
        activations=tokens * vectors * itemsize,
        logits=min(MAX_LOGITS, tokens * outline.vocabulary) * LOGIT_BYTES,
        cache=tokens * outline.cache_bytes_per_token,
    )
