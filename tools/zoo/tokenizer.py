"""The tokenizer that all models of the zoo share, and the encoding of documents with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tools.zoo.recipes import END, MASK, VOCABULARY

SPECIAL_TOKENS = {END: "<|end|>", MASK: "<|mask|>"}


def train_tokenizer(texts: Iterable[str]) -> Any:
    """Train a byte-level BPE tokenizer of `VOCABULARY` tokens. The special tokens have the lowest IDs.

    Args:
        texts: The training documents.

    Returns:
        A tokenizer of transformers.

    Example:
        >>> tokenizer = train_tokenizer(["a tale of two tales"] * 3)
        >>> token_ids = tokenizer("two tales")["input_ids"]
        >>> token_ids[0] > MASK, tokenizer.decode(token_ids)
        (True, 'two tales')
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[SPECIAL_TOKENS[token_id] for token_id in sorted(SPECIAL_TOKENS)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = SPECIAL_TOKENS[END]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=end,
        eos_token=end,
        pad_token=end,
        mask_token=SPECIAL_TOKENS[MASK],
        clean_up_tokenization_spaces=False,
    )


def encode_documents(texts: Sequence[str], tokenizer: Any) -> np.ndarray:
    """Return the token IDs of all documents as one stream, with an end token before each document.

    Args:
        texts: The documents.
        tokenizer: A tokenizer of transformers.

    Returns:
        Token IDs, shape [tokens], uint16.
    """
    stream: list[int] = []
    for token_ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        stream.append(END)
        stream.extend(token_ids)
    return np.array(stream, dtype=np.uint16)
