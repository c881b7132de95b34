"""A task for sparsedial: the probability of the tokens of given sentences."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

import sparsedial as sd
from sparsedial.inference.run_context import RunContext, ignore_progress
from sparsedial.tasks.base import Scores

SENTENCES = (
    "The sun rises in the east and sets in the west.",
    "She opened the door and walked into the room.",
    "Water boils at one hundred degrees.",
    "He read the book twice before he gave it back.",
)
VERSION = 1  # must be increased when the same options give other scores


@sd.register_task
@dataclass(frozen=True)
class TokenProbability:
    """Task that scores a sentence by the geometric mean of the probabilities of its tokens.

    The fields are the options of the task.

    Attributes:
        limit: Number of sentences. None means all.
    """

    name: ClassVar[str] = "token_probability"
    reuse_mask: ClassVar[int] = 1

    limit: int | None = None

    def identity(self) -> dict[str, Any]:
        """Return everything that changes the score."""
        sentences = SENTENCES[: self.limit]
        digest = hashlib.sha256("\n".join(sentences).encode()).hexdigest()
        return {"task": self.name, "version": VERSION, "sentences": digest}

    def prepare(self, lm: Any, progress: Any = ignore_progress) -> dict[str, Any]:
        """Return the token ids of the sentences.

        Args:
            lm: The model and its tokenizer.
            progress: Not used.
        """
        return {"tokens": [lm.tokenizer(sentence)["input_ids"] for sentence in SENTENCES[: self.limit]]}

    @torch.inference_mode()
    def score(
        self,
        lm: Any,
        examples: dict[str, Any],
        sparsifier: sd.Sparsifier | None = None,
        progress: Any = ignore_progress,
    ) -> Scores:
        """Return the score of each sentence.

        Args:
            lm: The model.
            examples: What `prepare` returned.
            sparsifier: Sparsifier that is attached to the model, or None.
            progress: Called with the number of finished sentences and of all sentences.
        """
        scores = []
        for row in examples["tokens"]:
            tokens = torch.tensor([row], device=lm.device)
            with RunContext(sparsifier).observe(phase="prefill"):
                logits = lm.model(input_ids=tokens[:, :-1], use_cache=False).logits
            log_probabilities = logits.double().log_softmax(-1).gather(-1, tokens[:, 1:, None])
            scores.append(float(log_probabilities.mean().exp()))
            progress(len(scores), len(examples["tokens"]))
        return Scores("probability", np.array(scores), higher_is_better=True)
