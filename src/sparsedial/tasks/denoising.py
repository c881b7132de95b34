"""The dense model's own denoising, replayed step by step: what becomes of it, and of the masks along the way."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from sparsedial.diffusion.overlap import Reuse, Steps
from sparsedial.diffusion.sampler import RANDOM, Denoising, guided
from sparsedial.errors import SpecError
from sparsedial.models import LanguageModel
from sparsedial.sparsify import Dial
from sparsedial.tasks.base import Progress, Scores, no_progress
from sparsedial.tasks.restoration import sample

VERSION = 1  # raised when the same settings would give other numbers


@dataclass(frozen=True)
class DenoisingReplay:
    """Sequences that the dense model sampled, with the step in which each token was filled in, are gone through again.

    In every step the model sees what was there in that step. An example's score is how often its arg max, in the
    step in which a token was filled in, is that token. Every step is a forward, so this is where kept sets of
    consecutive steps can be compared, and reused.

    Attributes:
        sequences: N, the number of examples. length: L, sampled tokens in each. seed: of the sampling.
        batch: sequences per forward. how: of the sampling.
        reuse_mask: k; kept sets are chosen anew only every k-th step.
    """

    name: ClassVar[str] = "denoising"

    sequences: int = 64
    length: int = 96
    seed: int = 0
    batch: int = 8
    how: Denoising = field(default_factory=partial(Denoising, remasking=RANDOM, temperature=1.0))
    reuse_mask: int = 1

    def __post_init__(self) -> None:
        for name in ("sequences", "length", "batch", "reuse_mask"):
            if getattr(self, name) < 1:
                raise SpecError(f"{self.name}: {name}={getattr(self, name)}: expected at least 1")
        self.how.counts(self.length)

    def identity(self) -> dict[str, Any]:
        """Name, version and all the numbers."""
        return {"task": self.name, "version": VERSION, **asdict(self)}

    def prepare(self, lm: LanguageModel, progress: Progress = no_progress) -> dict[str, Any]:
        """Sample: ``{"tokens": [[...], ...], "step": [[...], ...]}``, -1 for what was there before the first step.

        Raises:
            ModelError: the model is no masked diffusion model, or has no mask token.
        """
        made = sample(lm, self.sequences, self.length, self.how, self.seed, progress)
        return {"tokens": made.tokens.tolist(), "step": made.step.tolist()}

    @torch.inference_mode()
    def score(
        self, lm: LanguageModel, examples: dict[str, Any], dial: Dial | None = None, progress: Progress = no_progress
    ) -> Scores:
        """Per sequence, the share of its tokens that are the arg max of the step in which they were filled in."""
        mask_token = lm.fills_in()
        steps = None
        if dial is not None:
            Reuse(dial, self.reuse_mask)
            steps = Steps(dial)
        tokens, filled = torch.tensor(examples["tokens"]), torch.tensor(examples["step"])
        last = int(filled.max())
        values: list[np.ndarray] = []
        for rows, at in zip(tokens.split(self.batch), filled.split(self.batch), strict=True):
            rows, at = rows.to(lm.device), at.to(lm.device)
            hits = torch.zeros(len(rows), dtype=torch.int64, device=lm.device)
            for step in range(last + 1):
                masked = at >= step
                noisy = rows.masked_fill(masked, mask_token)
                logits = guided(
                    lm.model, noisy, masked, at < 0, mask_token, self.how.guidance, dial, "generation", step
                )
                logits[..., mask_token] = -torch.inf
                hits += ((logits.argmax(-1) == rows) & (at == step)).sum(1)
            values.append((hits.double() / (at >= 0).sum(1)).cpu().numpy())
            progress(sum(map(len, values)), len(tokens))
        scores = np.concatenate(values)
        return (
            Scores("agreement", scores) if steps is None else Scores("agreement", scores, steps.usage(), steps.table())
        )
