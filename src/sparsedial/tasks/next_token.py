"""Next-token accuracy on documents: how often the model's arg max is the token that comes next."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from sparsedial import zoo
from sparsedial.diffusion.kinds import CAUSAL
from sparsedial.errors import SpecError, TaskError
from sparsedial.models import LanguageModel
from sparsedial.sparsify import Dial
from sparsedial.tasks.base import Progress, Scores, no_progress, observe

VERSION = 1  # raised when the same settings would give other numbers


@dataclass(frozen=True)
class NextToken:
    """The first tokens of each document, teacher-forced; a document's score is the share predicted right.

    Attributes:
        text: a file with a document a line, as text or (``.jsonl``) as JSON objects with ``text``; by default
            the zoo's held-out documents, which none of its models has seen.
        limit: documents, from the first, or None for all.
        length: tokens of each document that are predicted, at most; the model's own BOS comes before the first.
        batch: documents in a forward.
    """

    name: ClassVar[str] = "next_token"

    text: str | None = None
    limit: int | None = None
    length: int = 96
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("length", "batch"):
            if getattr(self, name) < 1:
                raise SpecError(f"next_token: {name}={getattr(self, name)}: expected at least 1")
        if len(texts := self._texts()) < (self.limit or 1):
            raise SpecError(
                f"text {self.text or zoo.HELD_OUT.name!r}: {len(texts)} documents, expected at least {self.limit or 1}"
            )

    def identity(self) -> dict[str, Any]:
        """Name, version, the text's sha256, and the numbers."""
        texts = self._texts()
        return {
            "task": self.name,
            "version": VERSION,
            "text": hashlib.sha256("\0".join(texts).encode()).hexdigest(),
            "documents": len(texts[: self.limit]),
            "length": self.length,
            "batch": self.batch,
        }

    def _texts(self) -> list[str]:
        path = zoo.HELD_OUT if self.text is None else Path(self.text)
        try:
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            return [json.loads(line)["text"] for line in lines] if path.suffix == ".jsonl" else lines
        except OSError as error:
            raise SpecError(f"text {str(path)!r}: {error.strerror}: expected a file with a document a line") from None
        except (ValueError, KeyError, TypeError) as error:
            raise SpecError(f"text {str(path)!r}: {error!r}: expected lines such as {{'text': '...'}}") from None

    def prepare(self, lm: LanguageModel, progress: Progress = no_progress) -> dict[str, Any]:
        """The token ids: ``{"tokens": [[start, t1, ...], ...]}``, the start left out where there is no BOS.

        Raises:
            TaskError: the model is not causal, so that it would see what it is to predict; or has no tokenizer.
        """
        if lm.kind != CAUSAL:
            raise TaskError(f"{self.name}: model {lm.source.name!r} is {lm.kind}: take masked_token instead")
        return {"tokens": self.rows(lm)}

    def rows(self, lm: LanguageModel) -> list[list[int]]:
        """The first tokens of every document, after the BOS where there is one."""
        if lm.tokenizer is None:
            raise TaskError(f"{self.name}: model {lm.source.name!r} has no tokenizer")
        start = [] if lm.tokenizer.bos_token_id is None else [lm.tokenizer.bos_token_id]
        rows = []
        for text in self._texts()[: self.limit]:
            ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
            rows.append((start + ids)[: self.length + 1])
        if short := sum(len(row) < 2 for row in rows):
            raise TaskError(f"{self.name}: {short} documents have nothing to predict; remove the empty ones")
        return rows

    @torch.inference_mode()
    def score(
        self, lm: LanguageModel, examples: dict[str, Any], dial: Dial | None = None, progress: Progress = no_progress
    ) -> Scores:
        """Per document, the share of its tokens that are the model's arg max."""
        rows = examples["tokens"]
        values = np.zeros(len(rows))
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))  # alike in length, so that little is padded
        for first in range(0, len(rows), self.batch):
            batch = order[first : first + self.batch]
            longest = len(rows[batch[0]])
            tokens = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in batch]).to(lm.device)
            lengths = torch.tensor([len(rows[i]) for i in batch]).to(lm.device)
            real = torch.arange(longest - 1, device=lm.device) < (lengths - 1)[:, None]
            with observe(dial, phase="prefill", real=real):
                best = lm.model(input_ids=tokens[:, :-1], use_cache=False).logits.argmax(-1)
            hits = (best == tokens[:, 1:]) & real
            values[batch] = (hits.sum(1).double() / (lengths - 1)).cpu().numpy()
            progress(min(first + self.batch, len(rows)), len(rows))
        return Scores("accuracy", values)
