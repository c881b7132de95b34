"""Denoising replay: a sparse model repeats, step by step, the denoising of sequences that the dense model sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.inference.denoising_config import RANDOM, DenoisingConfig
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel, MaskedTokens
from sparsedial.inference.nonfinite_outputs import check_finite_scores, predict_tokens
from sparsedial.inference.run_context import Progress, RunContext, ignore_progress
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.base import Scores
from sparsedial.tasks.diffusion_sampling import sample_by_denoising
from sparsedial.tasks.option_parsing import check_at_least

VERSION = 1  # incremented when the same settings would give other numbers
TEMPERATURE = 1.0


@dataclass(frozen=True)
class DenoisingReplayOptions:
    """Options of `DenoisingReplay`.

    Attributes:
        sequences: Number of examples.
        length: Number of sampled tokens per example.
        seed: Random seed of the sampling.
        batch: Sequences per forward pass.
        diffusion_steps: Denoising steps. The default is one per token.
        block_length: Tokens per block of semi-autoregressive denoising. None means that all tokens are one block.
        remasking: ``random`` or ``low_confidence``: which predictions of a step are masked again.
        temperature: Sampling temperature. 0 means the default of 1, because 0 is the default of lm-eval tasks, which
            share this option.
        guidance: Weight of classifier-free guidance. 0 turns it off.
        reuse_mask: Number of denoising steps for which kept sets are reused. 1 turns reuse off.
    """

    sequences: int = 64
    length: int = 96
    seed: int = 0
    batch: int = 8
    diffusion_steps: int | None = None
    block_length: int | None = None
    remasking: str = RANDOM
    temperature: float = TEMPERATURE
    guidance: float = 0.0
    reuse_mask: int = 1

    def create_task(self) -> DenoisingReplay:
        """Create the task.

        Returns:
            The task with these options.

        Raises:
            SpecError: A number is out of range, or the steps and blocks do not divide the length.
        """
        config = DenoisingConfig(
            self.diffusion_steps,
            self.block_length,
            self.remasking,
            self.temperature or TEMPERATURE,
            self.guidance,
        )
        return DenoisingReplay(self.sequences, self.length, self.seed, self.batch, config, self.reuse_mask)


@dataclass(frozen=True)
class DenoisingReplay:
    """Task that replays denoising trajectories sampled from the dense model.

    In every step, the model reads the sequence with the masks that it had in that step. The score of a sequence is the
    share of its tokens that are the arg max in the step in which they were filled in. Every step is a forward pass, so
    kept sets of consecutive steps can be compared and reused.

    Attributes:
        sequences: Number of examples.
        length: Number of sampled tokens per example.
        seed: Random seed of the sampling.
        batch: Sequences per forward pass.
        config: Schedule, temperature and guidance of the sampling.
        reuse_mask: Number of denoising steps for which kept sets are reused. 1 turns reuse off.
    """

    name: ClassVar[str] = "denoising"

    sequences: int = 64
    length: int = 96
    seed: int = 0
    batch: int = 8
    config: DenoisingConfig = field(default_factory=partial(DenoisingConfig, remasking=RANDOM, temperature=TEMPERATURE))
    reuse_mask: int = 1

    def __post_init__(self) -> None:
        check_at_least(
            self.name,
            1,
            sequences=self.sequences,
            length=self.length,
            batch=self.batch,
            reuse_mask=self.reuse_mask,
        )
        self.config.schedule(self.length)

    def identity(self) -> dict[str, Any]:
        """Return the name, the version and the options of the task."""
        return {
            "task": self.name,
            "version": VERSION,
            "sequences": self.sequences,
            "length": self.length,
            "seed": self.seed,
            "batch": self.batch,
            "how": self.config.to_json(),
            "reuse_mask": self.reuse_mask,
        }

    def prepare(self, lm: LanguageModel, progress: Progress = ignore_progress) -> dict[str, Any]:
        """Sample the sequences from the dense model.

        Args:
            lm: Masked diffusion model.
            progress: Called with the denoising steps done and in total.

        Returns:
            ``{"tokens": [[...], ...], "step": [[...], ...]}``: the token ids, and the step in which each token was
            filled in. The step of the start token is -1.

        Raises:
            ModelError: The model is not a masked diffusion model, or has no mask token.
            TaskError: The model has fewer positions than the sequences have tokens.
        """
        sampled = sample_by_denoising(lm, self.sequences, self.length, self.config, self.seed, progress)
        return {"tokens": sampled.tokens.tolist(), "step": sampled.step.tolist()}

    @torch.inference_mode()
    def score(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        sparsifier: Sparsifier | None = None,
        progress: Progress = ignore_progress,
    ) -> Scores:
        """Return the share of each sequence's tokens that are the arg max in the step that filled them in.

        Args:
            lm: Masked diffusion model.
            examples: Examples from `prepare`.
            sparsifier: Sparsifier attached to the model, or None.
            progress: Called with the sequences done and in total.

        Returns:
            Scores with the metric ``agreement``.

        Raises:
            ModelError: The model is not a masked diffusion model, or has no mask token.
            NonFiniteOutputError: The model's logits are NaN or infinite.
        """
        model = MaskedDiffusionModel.from_language_model(lm)
        run = RunContext(sparsifier)
        tokens = torch.tensor(examples["tokens"])
        filled_at = torch.tensor(examples["step"])
        steps = int(filled_at.max()) + 1
        shares: list[np.ndarray] = []
        completed = 0
        for rows, row_steps in zip(tokens.split(self.batch), filled_at.split(self.batch), strict=True):
            shares.append(self._score_batch(model, rows.to(lm.device), row_steps.to(lm.device), steps, run))
            completed += len(rows)
            progress(completed, len(tokens))
        return Scores("agreement", np.concatenate(shares), higher_is_better=True)

    def _score_batch(
        self,
        model: MaskedDiffusionModel,
        tokens: torch.Tensor,
        filled_at: torch.Tensor,
        steps: int,
        run: RunContext,
    ) -> np.ndarray:
        """Return the share of hits in each row of ``tokens`` [rows, length], shape [rows]."""

        def repeat(row: int) -> object:
            return self._replay(model, tokens[row : row + 1], filled_at[row : row + 1], steps, run)

        shares = self._replay(model, tokens, filled_at, steps, run)
        check_finite_scores(model.model, shares, repeat)
        return shares

    def _replay(
        self,
        model: MaskedDiffusionModel,
        tokens: torch.Tensor,
        filled_at: torch.Tensor,
        steps: int,
        run: RunContext,
    ) -> np.ndarray:
        """Return the result of `_score_batch`. It is NaN if the logits are."""
        is_start = filled_at < 0
        hits = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        is_broken = torch.zeros_like(hits, dtype=torch.bool)
        for step in range(steps):
            masked = filled_at >= step
            noisy = MaskedTokens(tokens.masked_fill(masked, model.mask_token), masked, is_start)
            logits = model.logits(noisy, phase="generation", step=step, guidance=self.config.guidance, run=run)
            logits[..., model.mask_token] = -torch.inf  # the mask token is never a prediction
            predicted_tokens, is_finite = predict_tokens(logits)
            hits += ((predicted_tokens == tokens) & (filled_at == step)).sum(1)
            is_broken |= ~is_finite.all(1)
        shares = (hits.double() / (~is_start).sum(1)).masked_fill(is_broken, torch.nan)
        result: np.ndarray = shares.cpu().numpy()
        return result
