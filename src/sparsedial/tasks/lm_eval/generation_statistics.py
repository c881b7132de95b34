"""Statistics of the texts that a model generates for a task: their lengths, their segments, and how they ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsedial.inference.generation import GeneratedTokens
from sparsedial.inference.thinking_segments import SegmentDivider, TextSegments
from sparsedial.tasks.base import GENERATION_COLUMNS, SEGMENT_COLUMNS


@dataclass(frozen=True)
class TextStatistics:
    """Statistics of one generated text.

    Attributes:
        document: Index of the document that the text was generated for.
        prompt_tokens: Number of tokens of the prompt.
        generated_tokens: Number of generated tokens, including the one that ended the text.
        limit_hit: True if the text ended because it reached its maximum length.
        segments: Its segments. None if the model has no markers.
    """

    document: int
    prompt_tokens: int
    generated_tokens: int
    limit_hit: bool
    segments: TextSegments | None

    @classmethod
    def from_text(
        cls, document: int, prompt: Sequence[int], text: GeneratedTokens, divider: SegmentDivider | None
    ) -> TextStatistics:
        """Return the statistics of a text.

        Args:
            document: Index of its document.
            prompt: Token IDs of its prompt.
            text: The text.
            divider: Divider of the text into segments, or None.
        """
        segments = None if divider is None else divider.divide(prompt, text.tokens)
        return cls(document, len(prompt), len(text.tokens), not text.stopped, segments)

    def to_row(self) -> dict[str, float]:
        """Return the columns of `GENERATION_COLUMNS`, and those of `SEGMENT_COLUMNS` if the text is divided."""
        row = {
            "generated_tokens": float(self.generated_tokens),
            "limit_hit": float(self.limit_hit),
            "prompt_tokens": float(self.prompt_tokens),
        }
        segments = self.segments
        if segments is not None:
            row["thinking_tokens"] = float(segments.thinking)
            row["answer_tokens"] = float(segments.answer)
            row["has_thinking"] = float(segments.has_thinking)
            row["unclosed"] = float(not segments.is_closed)
            row["limit_hit_thinking"] = float(self.limit_hit and not segments.is_closed)
        return row


def average_texts(texts: Sequence[TextStatistics]) -> dict[str, float]:
    """Return the mean of each column over all texts.

    Args:
        texts: At least one text.
    """
    return _average_rows([text.to_row() for text in texts])


def average_documents(texts: Sequence[TextStatistics], documents: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the mean of each column over the texts of each document.

    Args:
        texts: The texts, at least one per document.
        documents: Indices of the documents, in the order of the scores.

    Returns:
        Arrays of shape [documents], float64, by column.
    """
    rows: dict[int, list[Mapping[str, float]]] = defaultdict(list)
    for text in texts:
        rows[text.document].append(text.to_row())
    if any(document not in rows for document in documents):
        return {}
    averages = [_average_rows(rows[document]) for document in documents]
    columns = {}
    for name in averages[0]:
        columns[name] = np.array([average[name] for average in averages])
    return columns


def _average_rows(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    averages = {}
    for name in (*GENERATION_COLUMNS, *SEGMENT_COLUMNS):
        if name in rows[0]:
            averages[name] = float(np.mean([row[name] for row in rows]))
    return averages
