"""What a model can read: the number of positions, and the token IDs that its embedding has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from sparsedial.errors import TaskError
from sparsedial.models.loading import LanguageModel

POSITION_LIMITS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len")
"""Names that configurations use for the maximum number of positions."""


def max_positions(model: Any) -> int | None:
    """Return the maximum number of positions of a model, or None if its configuration states none.

    Args:
        model: Language model of transformers. Its text configuration is searched for one of `POSITION_LIMITS`.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> max_positions(GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=4, n_layer=1, n_head=1, n_positions=32)))
    32
    """
    config = model.config.get_text_config()
    for name in POSITION_LIMITS:
        limit = getattr(config, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit - _reserved_positions(model, limit)
    return None


def _reserved_positions(model: Any, limit: int) -> int:
    """Return the number of rows of a table of learned positions that no token uses.

    In RoBERTa and its relatives, the positions of tokens begin after the row of the padding.
    """
    token_embedding = model.get_input_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module is not token_embedding and module.num_embeddings == limit:
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def check_length(lm: LanguageModel, length: int, description: str, advice: str) -> None:
    """Raise an error if a model has fewer positions than a sequence has tokens.

    Args:
        lm: The model.
        length: Number of tokens that the model would read.
        description: What has that length, for the error message, such as "self_prediction: length 40".
        advice: What the user can do, as the end of the message.

    Raises:
        TaskError: The model has too few positions.
    """
    limit = max_positions(lm.model)
    if limit is not None and limit < length:
        raise TaskError(f"{description}, but the model has {limit} positions: {advice}")


def check_token_ids(lm: LanguageModel, rows: Iterable[Sequence[int]]) -> None:
    """Raise an error if a token ID has no row in the embedding of the model.

    Args:
        lm: The model.
        rows: Token IDs that the model would read.

    Raises:
        TaskError: A token ID is negative, or not below the number of rows of the embedding.
    """
    embedding_rows = count_embedding_rows(lm.model)
    for row in rows:
        for token in row:
            if not 0 <= token < embedding_rows:
                raise TaskError(
                    f"the tokenizer of {lm.source.name!r} uses the token {_describe_token(lm, token)}, "
                    f"but the model's embedding has {embedding_rows} rows, numbered from 0: the tokenizer does not "
                    "belong to these weights. Use the tokenizer that the model was trained with, or add the missing "
                    "rows with resize_token_embeddings()."
                )


def count_embedding_rows(model: Any) -> int:
    """Return the number of token IDs that a model can read.

    Args:
        model: Language model of transformers.
    """
    return int(model.get_input_embeddings().weight.shape[0])


def find_padding_token(model: Any, *preferred: int | None) -> int:
    """Return a token ID to fill batches with: one that the model has, with an embedding without NaN and Inf.

    The mask of an attention layer does not keep a NaN in a padding position away from the real tokens, because the
    product of NaN and a weight of zero is NaN.

    Args:
        model: Language model of transformers.
        *preferred: Token IDs to choose if possible, the best one first. None is skipped. Token 0 comes after them.

    Returns:
        The token ID, or 0 if all embeddings contain NaN or Inf.
    """
    embeddings = model.get_input_embeddings().weight
    if embeddings.is_meta:  # offloaded, so the values are not in memory
        embeddings = torch.zeros(len(embeddings), 1)
    for token in (*preferred, 0):
        if token is not None and token < len(embeddings) and bool(embeddings[token].isfinite().all()):
            return int(token)
    return int(embeddings.isfinite().all(1).byte().argmax())


def _describe_token(lm: LanguageModel, token: int) -> str:
    """Return a token ID with its text if the tokenizer has one, such as "69 ('<s>')"."""
    if lm.tokenizer is None:
        return str(token)
    text = lm.tokenizer.convert_ids_to_tokens(token)
    if text is None:
        return str(token)
    return f"{token} ({text!r})"
