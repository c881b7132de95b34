"""The space on disk that a study takes, beside the data sets that other libraries download."""

from __future__ import annotations

from sparsedial.models.model_outline import ModelOutline

RECORD_BYTES = 1500
"""Size of the record of a trial without its counts."""
COUNT_BYTES = 200
"""Size of the counts of one vector of one FFN in the record of a trial."""
SCORES_BYTES = 2700
"""Size of the file with the scores of no example."""
EXAMPLE_BYTES = 250
"""Size of one example's score, name and prediction in that file. A prediction of 96 tokens takes most of it."""


def estimate_trial_bytes(outline: ModelOutline, examples: int, is_sparse: bool) -> int:
    """Return the size of the files of one trial.

    The sizes were measured in the rehearsal of the paper's studies (``make paper-rehearsal``) and with self-prediction
    on the zoo.

    Args:
        outline: Shape of the model.
        examples: Number of examples.
        is_sparse: False for a dense trial, which counts nothing.
    """
    size = RECORD_BYTES + SCORES_BYTES + EXAMPLE_BYTES * examples
    if is_sparse:
        size += COUNT_BYTES * outline.layers * outline.experts
    return size
