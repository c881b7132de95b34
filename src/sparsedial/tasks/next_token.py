"""Next-token accuracy on documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from sparsedial.errors import SpecError, TaskError
from sparsedial.hooks.forward_context import PREFILL
from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.inference.logit_budget import max_logit_rows
from sparsedial.inference.model_limits import check_length, check_token_ids, find_padding_token
from sparsedial.inference.nonfinite_outputs import check_finite_scores, predict_tokens
from sparsedial.inference.run_context import Progress, RunContext, ignore_progress
from sparsedial.inference.token_likelihood import negative_log_likelihoods
from sparsedial.models import zoo_package
from sparsedial.models.kind import CAUSAL
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.base import NLL, NLL_TOKENS, Scores, tokens_to_text
from sparsedial.tasks.batch_option import BatchOption
from sparsedial.tasks.example_blocks import EXAMPLES, ExampleBlock, SelectableExamples
from sparsedial.tasks.option_parsing import INTERNAL, check_at_least
from sparsedial.tasks.workload import Workload, row_workload

VERSION = 2  # incremented when the same settings would give other numbers


@dataclass(frozen=True)
class NextToken(BatchOption, SelectableExamples):
    """Task that scores a document by the share of its tokens that are the model's arg max, given all earlier tokens.

    The model reads the first tokens of each document, after the BOS token if the tokenizer has one. The fields are the
    options of the task.

    Attributes:
        text: File in UTF-8 with one document per line: plain text, or JSON objects with the key ``text`` if the suffix
            is ``.jsonl``. Lines end with a line feed. None means the held-out documents of the model zoo, on which no
            zoo model was trained.
        limit: Number of documents, counted from the first. None means all.
        length: Maximum number of predicted tokens per document.
        batch: Maximum number of documents per forward pass. Fewer are used if their logits would exceed 1 GiB. None
            means the default of the device.
        block: Range of documents to score. None means all. It is no option.
    """

    name: ClassVar[str] = "next_token"
    reuse_mask: ClassVar[int] = 1
    phases: ClassVar[tuple[str, ...]] = (PREFILL,)
    gives_likelihoods: ClassVar[bool] = True
    likelihood_kinds: ClassVar[tuple[str, ...]] = (CAUSAL,)
    needs_tokenizer: ClassVar[bool] = True

    text: str | None = None
    limit: int | None = None
    length: int = 96
    batch: int | None = None
    block: ExampleBlock | None = field(default=None, metadata=INTERNAL)

    def __post_init__(self) -> None:
        check_at_least(self.name, 1, length=self.length, batch=self.batch, limit=self.limit)
        expected = self.limit or 1
        documents = self._read_documents()
        if len(documents) < expected:
            name = self.text or "heldout.jsonl"
            raise SpecError(f"text {name!r}: {len(documents)} documents found, expected at least {expected}")

    def identity(self) -> dict[str, Any]:
        """Return the name, the version, the SHA-256 of the documents and the options that change a score."""
        documents = self._read_documents()
        return {
            "task": self.name,
            "version": VERSION,
            "text": hashlib.sha256("\0".join(documents).encode()).hexdigest(),
            "length": self.length,
            EXAMPLES: self._find_block(documents).to_json(),
        }

    def count_examples(self) -> int:
        """Return the number of documents that the options request."""
        return self.limit or len(self._read_documents())

    def count_available(self) -> int | None:
        """Return the number of documents in the file."""
        return len(self._read_documents())

    def _find_block(self, documents: Sequence[str]) -> ExampleBlock:
        """Return the range of documents to score."""
        return self.block or ExampleBlock(0, len(documents[: self.limit]))

    def prepare(self, lm: LanguageModel, progress: Progress = ignore_progress) -> dict[str, Any]:
        """Return the token ids of the documents.

        Args:
            lm: Causal language model with a tokenizer.
            progress: Not used.

        Returns:
            ``{"tokens": [[bos, t1, ...], ...]}``, without ``bos`` if the tokenizer has none.

        Raises:
            TaskError: The model is not causal, so it would read the tokens that it has to predict, or it has no
                tokenizer, or a document is empty, or is too long for the model, or has tokens that the model lacks.
        """
        self.check_kind(lm)
        rows = self.tokenize(lm)
        check_document_lengths(lm, [len(row) - 1 for row in rows], self.name)  # the last token is only predicted
        return {"tokens": rows}

    def check_kind(self, lm: LanguageModel) -> None:
        """Check that a model is causal, because any other model would read the tokens that it has to predict.

        Args:
            lm: The model.

        Raises:
            TaskError: The model is of another kind.
        """
        if lm.kind != CAUSAL:
            raise TaskError(f"{self.name}: model {lm.source.name!r} is {lm.kind}: use masked_token instead")

    def tokenize(self, lm: LanguageModel) -> list[list[int]]:
        """Return the first token ids of every document, after the BOS token if the tokenizer has one.

        Args:
            lm: Language model with a tokenizer.

        Returns:
            One list per document, with at most 1 + `length` token ids.

        Raises:
            TaskError: The model has no tokenizer, or a document is empty or has tokens that the model lacks.
        """
        if lm.tokenizer is None:
            raise TaskError(f"{self.name}: model {lm.source.name!r} has no tokenizer: use a model with a tokenizer")
        bos = lm.tokenizer.bos_token_id
        start = [] if bos is None else [bos]
        rows = []
        documents = self._read_documents()
        block = self._find_block(documents)
        for text in documents[block.first : block.end]:
            token_ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
            rows.append((start + token_ids)[: self.length + 1])
        empty = [row for row in rows if len(row) < 2]
        if empty:
            raise TaskError(f"{self.name}: {len(empty)} documents have no token to predict: remove the empty ones")
        check_token_ids(lm, rows)
        return rows

    def workload(self, lm: LanguageModel) -> Workload:
        """Return the work of one trial, see `EstimatedTask`.

        Args:
            lm: The model and its tokenizer.
        """
        return row_workload([row[:-1] for row in self.tokenize(lm)])  # the last token is only predicted

    @torch.inference_mode()
    def score(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        sparsifier: Sparsifier | None = None,
        progress: Progress = ignore_progress,
    ) -> Scores:
        """Return the share of correctly predicted tokens of each document.

        Args:
            lm: Causal language model.
            examples: Examples from `prepare`.
            sparsifier: Sparsifier attached to the model, or None.
            progress: Called with the documents done and in total.

        Returns:
            Scores with the metric ``accuracy``.

        Raises:
            NonFiniteOutputError: The model's logits are NaN or infinite.
        """
        rows: list[list[int]] = examples["tokens"]
        scores = np.zeros(len(rows))
        nll = np.zeros(len(rows))
        predicted: list[list[int]] = [[]] * len(rows)
        by_length = sorted(range(len(rows)), key=lambda index: -len(rows[index]))  # similar lengths need little padding
        batch = max_logit_rows(lm.model, max(map(len, rows)), self.batch_rows(lm))
        for first in range(0, len(rows), batch):
            indices = by_length[first : first + batch]
            predictions = _predict_batch(lm, [rows[index] for index in indices], sparsifier)
            scores[indices] = predictions.shares
            nll[indices] = predictions.nll
            for index, tokens in zip(indices, predictions.tokens, strict=True):
                predicted[index] = tokens
            progress(first + len(indices), len(rows))
        columns = {NLL: nll, NLL_TOKENS: np.array([len(row) - 1 for row in rows], dtype=np.float64)}
        return Scores("accuracy", scores, higher_is_better=True, predictions=tokens_to_text(predicted), columns=columns)

    def _read_documents(self) -> list[str]:
        """Return all documents of the file."""
        if self.text is not None and not self.text.strip():
            raise SpecError(f"text {self.text!r}: the name is empty: expected a file with one document per line")
        path = zoo_package.held_out_documents_path() if self.text is None else Path(self.text)
        try:
            lines = _read_lines(path)
        except OSError as error:
            raise SpecError(
                f"text {str(path)!r}: {error.strerror}: expected a file with one document per line"
            ) from None
        except UnicodeDecodeError as error:
            raise SpecError(f"text {str(path)!r}: {error}: expected a file in UTF-8") from None
        if path.suffix != ".jsonl":
            return list(lines.values())
        documents = []
        for number, line in lines.items():
            try:
                documents.append(_parse_json_line(line))
            except (ValueError, RecursionError) as error:
                raise SpecError(
                    f'text {str(path)!r}, line {number}: {error}: expected a line such as {{"text": "..."}}'
                ) from None
        return documents


def _read_lines(path: Path) -> dict[int, str]:
    """Return the lines of a file that are not blank, by their numbers.

    Only a line feed, or a carriage return and a line feed, ends a line. Other characters that Python counts as line
    boundaries, such as U+2028 or a form feed, may occur inside a document.
    """
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    return {number: line.removesuffix("\r") for number, line in enumerate(lines, start=1) if line.strip()}


def _parse_json_line(line: str) -> str:
    """Return the text of a document that is written as a JSON object."""
    document = json.loads(line)
    if not isinstance(document, dict) or "text" not in document:
        raise ValueError(f"no key 'text' in {line!r:.40}")
    text = document["text"]
    if not isinstance(text, str):
        raise ValueError(f"the text is {text!r:.40}")
    return text


def check_document_lengths(lm: LanguageModel, lengths: Sequence[int], task_name: str) -> None:
    """Raise an error if the longest document has more tokens than the model has positions.

    Args:
        lm: The model.
        lengths: Number of tokens that the model reads of each document.
        task_name: Name of the task, for the error message.

    Raises:
        TaskError: The model has too few positions.
    """
    longest = int(np.argmax(lengths))
    check_length(
        lm,
        lengths[longest],
        f"{task_name}: the model would read {lengths[longest]} tokens of document {longest + 1}",
        "use a smaller length, which cuts the documents",
    )


@dataclass(frozen=True)
class _Predictions:
    """Predictions of a batch of documents.

    Attributes:
        shares: Share of correctly predicted tokens of each document, shape [rows]. NaN if the logits are.
        nll: Sum of the negative log-likelihoods of the tokens of each document, shape [rows].
        tokens: The predicted tokens of each document.
    """

    shares: np.ndarray
    nll: np.ndarray
    tokens: list[list[int]]


def _predict_batch(lm: LanguageModel, rows: list[list[int]], sparsifier: Sparsifier | None) -> _Predictions:
    """Return the predictions of each row, and check that the logits are finite. The first row is the longest."""
    predictions = _predict_rows(lm, rows, sparsifier)
    check_finite_scores(lm.model, predictions.shares, lambda index: _predict_rows(lm, [rows[index]], sparsifier))
    return predictions


def _predict_rows(lm: LanguageModel, rows: list[list[int]], sparsifier: Sparsifier | None) -> _Predictions:
    """Return the predictions of each row. The first row is the longest."""
    longest = len(rows[0])
    padding = [find_padding_token(lm.model)]
    tokens = torch.tensor([row + padding * (longest - len(row)) for row in rows]).to(lm.device)
    target_counts = torch.tensor([len(row) - 1 for row in rows]).to(lm.device)
    real = torch.arange(longest - 1, device=lm.device) < target_counts[:, None]
    with RunContext(sparsifier).observe(phase="prefill", real=real):
        logits = lm.model(input_ids=tokens[:, :-1], use_cache=False).logits
    predicted_tokens, is_finite = predict_tokens(logits)
    hits = (predicted_tokens == tokens[:, 1:]) & real
    is_broken = (real & ~is_finite).any(1)
    shares: np.ndarray = (hits.sum(1).double() / target_counts).masked_fill(is_broken, torch.nan).cpu().numpy()
    nll: np.ndarray = (negative_log_likelihoods(logits, tokens[:, 1:]).double() * real).sum(1).cpu().numpy()
    predicted_rows = predicted_tokens.tolist()
    return _Predictions(shares, nll, [best[: len(row) - 1] for best, row in zip(predicted_rows, rows, strict=True)])
