"""Arguments of measurements that take half a second, and a task that is an object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from sparsedial.tasks.base import Scores

SMALL = {"sites": ["input"], "p": [0.9, 0.5], "sequences": 4, "length": 6, "batch": 4, "progress": False}


@pytest.fixture
def small():
    """Return the arguments of a measurement of one site at two values of p."""
    return dict(SMALL)


@dataclass(frozen=True)
class Confidence:
    """Task that scores a model by the probability of its most likely token after each of a few tokens."""

    tokens: int = 8
    name = "confidence"
    reuse_mask = 1

    def identity(self):
        return {"task": self.name, "version": 1, "tokens": self.tokens}

    def prepare(self, lm, progress=None):
        return {"rows": [[token] for token in range(3, 3 + self.tokens)]}

    def score(self, lm, examples, sparsifier=None, progress=None):
        rows = torch.tensor(examples["rows"]).to(lm.device)
        with torch.no_grad():
            logits = lm.model(input_ids=rows).logits[:, -1].float()
        return Scores("probability", logits.softmax(-1).amax(-1).cpu().numpy().astype(np.float64), {}, True)


@pytest.fixture
def task():
    """Return a task that is an object and needs no tokenizer."""
    return Confidence()


def count_trials(folder):
    """Return the number of finished trials in a directory."""
    return len(list(folder.glob("trials/*/*.json")))
