"""Does the model still say what stood at a mask? Self-prediction for diffusion models, and masked text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from sparsedial.diffusion.sampler import RANDOM, Denoising, Filled, fill_in, guided, of_one_length, seed_of
from sparsedial.errors import SpecError, TaskError
from sparsedial.models import LanguageModel
from sparsedial.sparsify import Dial
from sparsedial.tasks.base import Progress, Scores, no_progress
from sparsedial.tasks.next_token import NextToken

VERSION = 1  # raised when the same settings would give other numbers
SAMPLED_AT_ONCE = 1 << 14  # tokens


@dataclass(frozen=True)
class Restoration:
    """Self-prediction for diffusion models: sequences sampled from the dense model, a fraction of each masked again.

    Sampling is the model's own process, at temperature 1, the tokens of a step in random order, after the model's
    BOS where it has one. An example's score is how often the arg max at a mask is the token that stood there. As
    with self_prediction the dense score is below 1; what counts is the ratio of sparse to dense.

    Attributes:
        sequences: N, the number of examples. length: L, sampled tokens in each.
        seed: of the sampling and of the masks. batch: sequences per forward.
        fraction: of the L tokens, masked again. steps: of the sampling, None for one per token.
    """

    name: ClassVar[str] = "restoration"

    sequences: int = 64
    length: int = 96
    seed: int = 0
    batch: int = 8
    fraction: float = 0.5
    steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("sequences", "length", "batch"):
            if getattr(self, name) < 1:
                raise SpecError(f"{self.name}: {name}={getattr(self, name)}: expected at least 1")
        check_fraction(self.name, self.fraction)
        Denoising(steps=self.steps).counts(self.length)

    def identity(self) -> dict[str, Any]:
        """Name, version and all the numbers."""
        return {"task": self.name, "version": VERSION, **asdict(self)}

    def prepare(self, lm: LanguageModel, progress: Progress = no_progress) -> dict[str, Any]:
        """Sample and mask: ``{"tokens": [[...], ...], "masked": [[place, ...], ...]}``.

        Raises:
            ModelError: the model is no masked diffusion model, or has no mask token.
        """
        how = Denoising(steps=self.steps, remasking=RANDOM, temperature=1.0)
        made = sample(lm, self.sequences, self.length, how, self.seed, progress)
        tokens = made.tokens.tolist()
        return {"tokens": tokens, "masked": masks(tokens, self.length, self.fraction, self.seed)}

    def score(
        self, lm: LanguageModel, examples: dict[str, Any], dial: Dial | None = None, progress: Progress = no_progress
    ) -> Scores:
        """Per sequence, the share of its masks at which the arg max is the token that stood there."""
        return Scores("restored", restored(lm, examples, self.batch, dial, progress))


@dataclass(frozen=True)
class MaskedToken:
    """Documents with a fraction of their tokens masked; a document's score is the share predicted right.

    Attributes:
        text, limit, length, batch: as `NextToken` has them. seed: of the masks. fraction: masked.
    """

    name: ClassVar[str] = "masked_token"

    text: str | None = None
    limit: int | None = None
    length: int = 96
    batch: int = 8
    seed: int = 0
    fraction: float = 0.5

    def __post_init__(self) -> None:
        check_fraction(self.name, self.fraction)
        self._text()

    def _text(self) -> NextToken:
        return NextToken(self.text, self.limit, self.length, self.batch)

    def identity(self) -> dict[str, Any]:
        """Name, version, the text's sha256, and the numbers."""
        mine = {"task": self.name, "version": VERSION, "seed": self.seed, "fraction": self.fraction}
        return {**self._text().identity(), **mine}

    def prepare(self, lm: LanguageModel, progress: Progress = no_progress) -> dict[str, Any]:
        """The token ids, and which of them are masked.

        Raises:
            ModelError: the model is no masked diffusion model, or has no mask token.
        """
        lm.fills_in()
        rows = self._text().rows(lm)
        return {"tokens": rows, "masked": masks(rows, self.length, self.fraction, self.seed)}

    def score(
        self, lm: LanguageModel, examples: dict[str, Any], dial: Dial | None = None, progress: Progress = no_progress
    ) -> Scores:
        """Per document, the share of its masks at which the arg max is the token that stood there."""
        return Scores("accuracy", restored(lm, examples, self.batch, dial, progress))


def check_fraction(task: str, fraction: float) -> None:
    """Raise where nothing or more than everything would be masked.

    Raises:
        SpecError: naming the task.
    """
    if not 0 < fraction <= 1:
        raise SpecError(f"{task}: fraction {fraction}: expected a number above 0, up to 1")


def sample(
    lm: LanguageModel, sequences: int, length: int, how: Denoising, seed: int, progress: Progress = no_progress
) -> Filled:
    """So many sequences from the model itself, each from a seed of its own.

    Raises:
        ModelError: the model is no masked diffusion model, or has no mask token.
        TaskError: it is not made for so many tokens.
    """
    mask_token = lm.fills_in()
    config = lm.model.config.get_text_config()
    bos = getattr(lm.tokenizer, "bos_token_id", None)
    bos = getattr(config, "bos_token_id", None) if bos is None else bos
    start = [] if bos is None else [int(bos)]
    limit = getattr(config, "max_position_embeddings", None)
    if isinstance(limit, int) and 0 < limit < length + len(start):
        raise TaskError(f"length {length} and {len(start)} before: the model has {limit} positions: take fewer")
    rows = max(1, SAMPLED_AT_ONCE // (length + len(start)))
    made, steps = [], sum(map(len, how.counts(length)))
    for first in range(0, sequences, rows):
        count = min(rows, sequences - first)
        prompts = torch.tensor([start] * count, dtype=torch.int64).view(count, len(start))
        seeds = [seed_of(seed, first + i) for i in range(count)]
        told = partial(_told, progress, first * steps, count, sequences * steps)
        made.append(
            fill_in(
                lm.model,
                prompts,
                length,
                mask_token,
                how,
                seeds,
                progress=told,
            )
        )
    return Filled(torch.cat([m.tokens for m in made]).cpu(), torch.cat([m.step for m in made]).cpu())


def _told(progress: Progress, before: int, rows: int, of: int, step: int) -> None:
    progress(before + rows * step, of)


def masks(rows: Sequence[Sequence[int]], length: int, fraction: float, seed: int) -> list[list[int]]:
    """Per row, which places are masked: a fraction (at least one) of the last ``length``, drawn from the seed.

    >>> [len(places) for places in masks([[0, 5, 6, 7, 8], [0, 5]], 4, 0.5, seed=0)]
    [2, 1]
    """
    places = []
    for index, row in enumerate(rows):
        among = min(length, len(row))
        generator = torch.Generator().manual_seed(seed_of(seed, "masks", index))
        chosen = torch.randperm(among, generator=generator)[: max(1, round(fraction * among))]
        places.append(sorted((chosen + len(row) - among).tolist()))
    return places


@torch.inference_mode()
def restored(
    lm: LanguageModel,
    examples: dict[str, Any],
    batch: int,
    dial: Dial | None = None,
    progress: Progress = no_progress,
) -> np.ndarray:
    """Per row of ``examples["tokens"]``, how often the arg max at its places ``masked`` is what stood there."""
    mask_token, rows = lm.fills_in(), examples["tokens"]
    values = np.zeros(len(rows))
    done = 0
    for indices in of_one_length([len(row) for row in rows], batch * max(map(len, rows))):
        tokens = torch.tensor([rows[i] for i in indices])
        masked = torch.zeros_like(tokens, dtype=torch.bool)
        for row, i in enumerate(indices):
            masked[row, examples["masked"][i]] = True
        tokens, masked = tokens.to(lm.device), masked.to(lm.device)
        noisy = tokens.masked_fill(masked, mask_token)
        logits = guided(lm.model, noisy, masked, ~masked, mask_token, 0.0, dial, "prefill")
        logits[..., mask_token] = -torch.inf
        hits = (logits.argmax(-1) == tokens) & masked
        values[indices] = (hits.sum(1).double() / masked.sum(1)).cpu().numpy()
        done += len(indices)
        progress(done, len(rows))
    return values
