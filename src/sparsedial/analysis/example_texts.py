"""The texts behind the examples of a study: questions and tokens, decoded with the tokenizer of the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sparsedial.models.stored_tokenizer import find_stored_tokenizer
from sparsedial.study.records import ModelLabel, TrialRecord
from sparsedial.study.store import Store
from sparsedial.tasks.lm_eval.requests import PreparedRequests

MAX_QUESTION_TOKENS = 200
"""Tokens of a prompt that are decoded, counted from its end. Examples of the answer come first in a prompt."""

MAX_QUESTION_CHARACTERS = 280


@dataclass
class ExampleTexts:
    """Reader of the texts of examples. Tokenizers and examples are read once.

    Texts are available if the tokenizer of the model is on this machine (`find_stored_tokenizer`).
    """

    _tokenizers: dict[str, Any] = field(default_factory=dict, repr=False)
    _questions: dict[str, dict[int, str]] = field(default_factory=dict, repr=False)

    def read_questions(self, store: Store, record: TrialRecord) -> dict[int, str]:
        """Return the end of the prompt of each example of one block.

        Args:
            store: Directory of the study.
            record: A trial of one block of examples.

        Returns:
            Text by the index of the example. Empty if the texts are not available.
        """
        key = record.identity.examples_key
        if key not in self._questions:
            self._questions[key] = self._decode_questions(store.prepared(key), record.model)
        return self._questions[key]

    def decode_tokens(self, model: ModelLabel, tokens: Iterable[int]) -> dict[int, str]:
        """Return the text of single tokens.

        Args:
            model: The model.
            tokens: Token IDs.

        Returns:
            Text by token ID. Empty if the tokenizer is not available.
        """
        tokenizer = self._find_tokenizer(model)
        if tokenizer is None:
            return {}
        return {token: str(tokenizer.decode([token])) for token in tokens}

    def _find_tokenizer(self, model: ModelLabel) -> Any:
        if model.name not in self._tokenizers:
            self._tokenizers[model.name] = find_stored_tokenizer(model.name)
        return self._tokenizers[model.name]

    def _decode_questions(self, examples: dict[str, Any] | None, model: ModelLabel) -> dict[int, str]:
        if not examples or "requests" not in examples:
            return {}
        tokenizer = self._find_tokenizer(model)
        if tokenizer is None:
            return {}
        questions = {}
        for document, tokens in PreparedRequests.from_json(examples).document_tokens().items():
            text = tokenizer.decode(tokens[-MAX_QUESTION_TOKENS:], skip_special_tokens=True).strip()
            questions[document] = shorten_start(text, MAX_QUESTION_CHARACTERS)
        return questions


def shorten_start(text: str, length: int) -> str:
    """Return the end of a text, with an ellipsis in place of a start that is left out.

    Args:
        text: The text.
        length: Largest number of characters.

    Example:
        >>> shorten_start("one two three", 6), shorten_start("one", 6)
        ('…three', 'one')
    """
    if len(text) <= length:
        return text
    return f"…{text[1 - length :].lstrip()}"


def shorten_end(text: str, length: int) -> str:
    """Return the start of a text, with an ellipsis in place of an end that is left out.

    Args:
        text: The text.
        length: Largest number of characters.

    Example:
        >>> shorten_end("one two three", 6), shorten_end("one", 6)
        ('one t…', 'one')
    """
    if len(text) <= length:
        return text
    return f"{text[: length - 1].rstrip()}…"
