"""A task of a program of its own. It is not registered."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsedial.tasks.base import Scores


@dataclass(frozen=True)
class SumOfLogits:
    """Task that scores a row of tokens by a positive function of its logits."""

    rows: int = 3
    name: ClassVar[str] = "sum_of_logits"
    reuse_mask: ClassVar[int] = 1

    def identity(self):
        return {"task": self.name, "version": 1, "rows": self.rows}

    def prepare(self, lm, progress=None):
        generator = torch.Generator().manual_seed(0)
        return {"tokens": torch.randint(3, 90, (self.rows, 6), generator=generator).tolist()}

    def score(self, lm, examples, sparsifier=None, progress=None):
        with torch.inference_mode():
            logits = lm.model(input_ids=torch.tensor(examples["tokens"])).logits
        return Scores("score", logits.double().square().mean((1, 2)).numpy(), higher_is_better=True)
