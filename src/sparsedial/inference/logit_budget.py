"""Bounds of the memory that logits need: one number per position and entry of the vocabulary."""

from __future__ import annotations

from typing import Any

MAX_LOGITS = 1 << 28
"""Maximum number of logits that a forward pass computes, if it can be split: 1 GiB in float32."""
LOGITS_PER_CHUNK = 1 << 24
"""Number of logits that are converted to float32 at once: 64 MiB."""


def max_logit_positions(model: Any) -> int:
    """Return the maximum number of positions of one forward pass for which logits are computed, at least 1.

    Args:
        model: Language model, whose configuration states the size of the vocabulary.
    """
    return max(1, MAX_LOGITS // vocabulary_size(model))


def max_logit_rows(model: Any, length: int, rows: int) -> int:
    """Return the number of sequences per forward pass if logits are computed for all of their tokens, at least 1.

    Args:
        model: Language model.
        length: Number of tokens of the longest sequence.
        rows: Maximum number of sequences.
    """
    return max(1, min(rows, max_logit_positions(model) // max(1, length)))


def vocabulary_size(model: Any) -> int:
    """Return the number of entries of the vocabulary.

    Args:
        model: Language model.
    """
    return int(model.config.get_text_config().vocab_size)
