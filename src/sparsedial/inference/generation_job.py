"""Model, settings and progress that all batches of one text generation share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sparsedial.inference.run_context import RunContext
from sparsedial.inference.token_choice import DecodingSettings


class GenerationProgress:
    """Counter of generated tokens and finished texts, which reports them to the callbacks of a run.

    Args:
        run: Settings of the evaluation, with the callbacks.
        total: Number of texts to generate.
    """

    def __init__(self, run: RunContext, total: int) -> None:
        self._run = run
        self._total = total
        self._finished = 0
        self._tokens = 0
        self._start = time.perf_counter()

    def add_tokens(self, count: int) -> None:
        """Add generated tokens.

        Args:
            count: Number of tokens.
        """
        self._tokens += count

    def finish_texts(self, count: int) -> None:
        """Report that texts are finished.

        Args:
            count: Number of texts.
        """
        self._finished += count
        seconds = time.perf_counter() - self._start
        self._run.report_speed(self._tokens / max(seconds, 1e-9))
        self._run.progress(self._finished, self._total)


@dataclass(frozen=True)
class GenerationJob:
    """Model and settings that all batches of one text generation share.

    Attributes:
        model: Causal language model.
        tokenizer: Tokenizer of the model.
        settings: How tokens are chosen.
        run: Settings of the evaluation.
        progress: Is told about generated tokens and finished texts.
    """

    model: Any
    tokenizer: Any
    settings: DecodingSettings
    run: RunContext
    progress: GenerationProgress
