"""Masked-token accuracy of diffusion models on documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.inference.run_context import Progress, ignore_progress
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.base import Scores, tokens_to_text
from sparsedial.tasks.batch_option import BatchOption
from sparsedial.tasks.example_blocks import ExampleBlock, SelectableExamples
from sparsedial.tasks.model_kinds import MaskedDiffusionTask
from sparsedial.tasks.next_token import NextToken, check_document_lengths
from sparsedial.tasks.option_parsing import INTERNAL
from sparsedial.tasks.restoration import MaskedExamples, check_fraction, draw_masks, restore
from sparsedial.tasks.workload import Workload, row_workload

VERSION = 2  # incremented when the same settings would give other numbers


@dataclass(frozen=True)
class MaskedToken(BatchOption, MaskedDiffusionTask, SelectableExamples):
    """Task that scores a document by the share of its masked tokens that a diffusion model predicts correctly.

    The fields are the options of the task.

    Attributes:
        text: File with documents, as in `NextToken`.
        limit: Number of documents, counted from the first. None means all.
        length: Maximum number of tokens per document.
        batch: Maximum number of documents per forward pass, as in `NextToken`.
        seed: Random seed of the masks.
        fraction: Share of the tokens that are masked, above 0 and at most 1.
        block: Range of documents to score. None means all. It is no option.
    """

    name: ClassVar[str] = "masked_token"
    reuse_mask: ClassVar[int] = 1
    phases: ClassVar[tuple[str, ...]] = ()
    needs_tokenizer: ClassVar[bool] = True

    text: str | None = None
    limit: int | None = None
    length: int = 96
    batch: int | None = None
    seed: int = 0
    fraction: float = 0.5
    block: ExampleBlock | None = field(default=None, metadata=INTERNAL)

    def __post_init__(self) -> None:
        check_fraction(self.name, self.fraction)
        self._document_task()

    def identity(self) -> dict[str, Any]:
        """Return the name, the version, the SHA-256 of the documents and the options that change a score."""
        return {
            **self._document_task().identity(),
            "task": self.name,
            "version": VERSION,
            "seed": self.seed,
            "fraction": self.fraction,
        }

    def count_examples(self) -> int:
        """Return the number of documents that the options request."""
        return self._document_task().count_examples()

    def count_available(self) -> int | None:
        """Return the number of documents in the file."""
        return self._document_task().count_available()

    def prepare(self, lm: LanguageModel, progress: Progress = ignore_progress) -> dict[str, Any]:
        """Return the token ids of the documents, and their masks.

        Args:
            lm: Masked diffusion model with a tokenizer.
            progress: Not used.

        Returns:
            `MaskedExamples` as plain JSON.

        Raises:
            ModelError: The model is not a masked diffusion model, or has no mask token.
            TaskError: The model has no tokenizer, or a document is empty, or is too long for the model, or has tokens
                that the model lacks.
        """
        lm.require_mask_token()
        rows = self._document_task().tokenize(lm)
        check_document_lengths(lm, list(map(len, rows)), self.name)
        first = 0 if self.block is None else self.block.first
        masks = draw_masks(rows, self.length, self.fraction, self.seed, first)
        return MaskedExamples(rows, masks).to_json()

    def workload(self, lm: LanguageModel) -> Workload:
        """Return the work of one trial, see `EstimatedTask`.

        Args:
            lm: The model and its tokenizer.
        """
        return row_workload(self._document_task().tokenize(lm))

    def score(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        sparsifier: Sparsifier | None = None,
        progress: Progress = ignore_progress,
    ) -> Scores:
        """Return the share of correctly predicted masks of each document.

        Args:
            lm: Masked diffusion model.
            examples: Examples from `prepare`.
            sparsifier: Sparsifier attached to the model, or None.
            progress: Called with the documents done and in total.

        Returns:
            Scores with the metric ``accuracy``.

        Raises:
            ModelError: The model is not a masked diffusion model, or has no mask token.
            NonFiniteOutputError: The model's logits are NaN or infinite.
        """
        restored = restore(lm, MaskedExamples.from_json(examples), self.batch_rows(lm), sparsifier, progress)
        return Scores("accuracy", restored.shares, higher_is_better=True, predictions=tokens_to_text(restored.tokens))

    def _document_task(self) -> NextToken:
        """Return a next-token task that reads and tokenizes the same documents."""
        return NextToken(self.text, self.limit, self.length, self.batch, self.block)
