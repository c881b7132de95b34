"""Division of generated texts into thinking and answer.

The thinking goes from the start marker to the end marker, both included. All other tokens are the answer. A marker may
consist of several tokens and may begin or end inside of a token, so it is looked for in the decoded text. A marker is
recognised with the token that completes it: see `SegmentReader` for what follows from this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparsedial.inference.thinking_markers import ThinkingMarkers

EXTRA_TOKENS = 2
"""Tokens that are decoded before a marker, because some tokenizers drop a space at the beginning."""
INCOMPLETE_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""What a token is decoded as that holds a part of a character only."""


@dataclass(frozen=True)
class TextSegments:
    """Segments of one generated text.

    Attributes:
        thinking: Number of tokens from the start marker to the end marker, without those of the prompt.
        answer: Number of all other tokens.
        has_thinking: True if the text, or the prompt at its end, begins to think.
        is_closed: False if the text ends while the model is thinking.
    """

    thinking: int
    answer: int
    has_thinking: bool
    is_closed: bool


class MarkerFinder:
    """Search for a marker in the last tokens of a text.

    Args:
        tokenizer: Tokenizer of the model.
        marker: The marker, which the tokenizer can encode.
    """

    def __init__(self, tokenizer: Any, marker: str) -> None:
        self._tokenizer = tokenizer
        self._marker = marker
        # A token adds at least one byte to a text, so a marker has at most as many tokens as bytes.
        self.max_tokens = len(marker.encode()) + EXTRA_TOKENS
        self._may_complete: dict[int, bool] = {}  # by token ID

    def count_tokens(self, tokens: Sequence[int]) -> int:
        """Return the number of tokens of the marker if the last token completes it, otherwise 0.

        Args:
            tokens: The last tokens of a text, which do not contain the marker before the last of them.
        """
        last = tokens[-1]
        if last not in self._may_complete:
            text = self._decode([last])
            self._may_complete[last] = self._marker[-1] in text or INCOMPLETE_CHARACTER in text
        if not self._may_complete[last] or self._marker not in self._decode(tokens):
            return 0
        length = 1
        while self._marker not in self._decode(tokens[-length:]):
            length += 1
        return length

    def text_after(self, tokens: Sequence[int]) -> str:
        """Return the rest of the last token.

        Args:
            tokens: Tokens for which `count_tokens` is not 0.
        """
        return self._decode(tokens).partition(self._marker)[2]

    def is_in(self, text: str) -> bool:
        """Return True if a text contains the marker.

        Args:
            text: The text.
        """
        return self._marker in text

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


class SegmentDivider:
    """Divider of the texts of one model.

    Args:
        tokenizer: Tokenizer of the model.
        markers: Markers that the tokenizer can encode, see `check_markers`.
    """

    def __init__(self, tokenizer: Any, markers: ThinkingMarkers) -> None:
        self.start = MarkerFinder(tokenizer, markers.start)
        self.end = MarkerFinder(tokenizer, markers.end)

    def read_prompt(self, prompt: Sequence[int]) -> SegmentReader:
        """Return a reader of the text that follows a prompt.

        Args:
            prompt: Token IDs. Chat templates may end with a start marker, so that the text begins with thoughts.
        """
        reader = SegmentReader(self)
        for token in prompt:
            reader.append(token)
        reader.start_text()
        return reader

    def divide(self, prompt: Sequence[int], tokens: Sequence[int]) -> TextSegments:
        """Return the segments of a text.

        Args:
            prompt: Token IDs of its prompt.
            tokens: Token IDs of the text, including the token that ended it.
        """
        reader = self.read_prompt(prompt)
        for token in tokens:
            reader.append(token)
        return reader.segments()


class SegmentReader:
    """Reader of one text, token by token.

    `append` has to decide before the next token is known. So if a start marker has several tokens, it returns False for
    all but the last of them. `segments` counts all tokens of the marker as thinking.

    Args:
        divider: Divider with the markers.

    Attributes:
        is_open: True while the model is thinking.
    """

    def __init__(self, divider: SegmentDivider) -> None:
        self.is_open = False
        self._divider = divider
        self._tail: list[int] = []  # tokens since the last marker
        self._has_thinking = False
        self._thinking = 0
        self._length = 0

    def append(self, token: int) -> bool:
        """Read a token.

        Args:
            token: ID of the next token.

        Returns:
            True if it belongs to the thinking, as far as this is known before the next token.
        """
        was_open = self.is_open
        finder = self._divider.end if was_open else self._divider.start
        self._tail.append(token)
        del self._tail[: -finder.max_tokens]
        self._length += 1
        marker_tokens = finder.count_tokens(self._tail)
        if marker_tokens:
            other = self._divider.start if was_open else self._divider.end
            is_single_token = other.is_in(finder.text_after(self._tail))  # one token that holds both markers
            self.is_open = was_open if is_single_token else not was_open
            self._tail.clear()
        if was_open:
            self._thinking += 1
        elif marker_tokens:
            self._has_thinking = True
            self._thinking += min(marker_tokens, self._length)
        return was_open or marker_tokens > 0

    def start_text(self) -> None:
        """Begin to count the tokens of the generated text. The tokens read so far are the prompt."""
        self._has_thinking = self.is_open
        self._thinking = 0
        self._length = 0

    def segments(self) -> TextSegments:
        """Return the segments of the text read so far."""
        return TextSegments(self._thinking, self._length - self._thinking, self._has_thinking, not self.is_open)
