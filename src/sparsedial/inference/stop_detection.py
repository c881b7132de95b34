"""Detection of the end of a generated text: an end token or a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsedial.inference.generation import contains_any, end_token_ids

EXTRA_TOKENS = 2
"""Tokens that are decoded before the longest stop string, because some tokenizers drop a space at the beginning."""


class StopDetector:
    """Detector of the texts that the last generated token has ended.

    A stop string may be generated as any number of tokens, and may begin or end inside of a token. A token adds at
    least one byte to a text, so the last tokens of a text contain the whole stop string if there are as many of them
    as it has bytes.

    Args:
        model: Causal language model, whose generation configuration defines the end tokens.
        tokenizer: Tokenizer of the model.
        until: Stop strings. Empty strings are ignored.
    """

    def __init__(self, model: Any, tokenizer: Any, until: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._end_tokens = end_token_ids(model.generation_config)
        self._stop_strings = list(filter(None, until))
        stop_lengths = [len(stop.encode()) for stop in self._stop_strings]
        self._tail_length = max(stop_lengths, default=0) + EXTRA_TOKENS

    def find_ended(self, texts: Sequence[Sequence[int]]) -> list[bool]:
        """Return for each text whether its last token has ended it.

        Args:
            texts: Token IDs generated so far for each text, at least one each.
        """
        tails = [""] * len(texts)
        if self._stop_strings and texts:
            tails = self._tokenizer.batch_decode([list(tokens[-self._tail_length :]) for tokens in texts])
        ended = []
        for tokens, tail in zip(texts, tails, strict=True):
            ended.append(tokens[-1] in self._end_tokens or contains_any(tail, self._stop_strings))
        return ended
