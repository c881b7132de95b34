"""Denoising replay: a sparse model repeats, step by step, the denoising of sequences that the dense model sampled."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.inference.denoising_config import RANDOM, DenoisingConfig
from sparsedial.inference.logit_budget import max_logit_rows
from sparsedial.inference.run_context import Progress, RunContext, ignore_progress
from sparsedial.inference.sampled_denoising import SampledDenoising, predict_with_probabilities
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.agreement_metrics import AGREEMENT, EXPECTED_AGREEMENT, check_metric
from sparsedial.tasks.base import Scores, tokens_to_text
from sparsedial.tasks.batch_option import BatchOption
from sparsedial.tasks.diffusion_sampling import sample_by_denoising
from sparsedial.tasks.example_blocks import EXAMPLES, ExampleBlock, SampledExamples
from sparsedial.tasks.model_kinds import MaskedDiffusionTask
from sparsedial.tasks.option_parsing import check_at_least
from sparsedial.tasks.workload import Workload, prefill_workload

VERSION = 3  # incremented when the same settings would give other numbers
TEMPERATURE = 1.0


@dataclass(frozen=True)
class DenoisingReplayOptions:
    """Options of `DenoisingReplay`.

    Attributes:
        sequences: Number of examples.
        length: Number of sampled tokens per example.
        seed: Random seed of the sampling.
        batch: Maximum number of sequences per forward pass. Fewer are used if their logits would exceed 1 GiB. None
            means the default of the device.
        diffusion_steps: Denoising steps. The default is one per token.
        block_length: Tokens per block of semi-autoregressive denoising. None means that all tokens are one block.
        remasking: ``random`` or ``low_confidence``: which predictions of a step are masked again.
        temperature: Sampling temperature. 0 means the default of 1, because 0 is the default of lm-eval tasks, which
            share this option.
        guidance: Weight of classifier-free guidance. 0 turns it off.
        reuse_mask: Number of denoising steps for which kept sets are reused. 1 turns reuse off.
        metric: ``expected_agreement`` or ``agreement``, see `DenoisingReplay`.
    """

    sequences: int = 64
    length: int = 96
    seed: int = 0
    batch: int | None = None
    diffusion_steps: int | None = None
    block_length: int | None = None
    remasking: str = RANDOM
    temperature: float = TEMPERATURE
    guidance: float = 0.0
    reuse_mask: int = 1
    metric: str = EXPECTED_AGREEMENT

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
        return DenoisingReplay(self.sequences, self.length, self.seed, self.batch, config, self.reuse_mask, self.metric)


@dataclass(frozen=True)
class DenoisingReplay(BatchOption, MaskedDiffusionTask, SampledExamples):
    """Task that replays denoising trajectories sampled from the dense model.

    In every step, the model reads the sequence with the masks that it had in that step. Every step is a forward pass,
    so kept sets of consecutive steps can be compared and reused.

    With the metric ``agreement``, the score of a sequence is the share of its tokens that are the arg max in the step
    in which they were filled in. With ``expected_agreement``, each token is replaced by the distribution from which it
    was sampled, as in `CausalSelfPrediction`: the score is the mean probability of the arg max under the dense model in
    the same step, at the temperature and guidance of the sampling. This needs the remasking ``random``. With
    ``low_confidence``, a token is kept because of its probability, so it has another distribution, and the metric is
    always ``agreement``.

    Attributes:
        sequences: Number of examples.
        length: Number of sampled tokens per example.
        seed: Random seed of the sampling.
        batch: Maximum number of sequences per forward pass. Fewer are used if their logits would exceed 1 GiB. None
            means the default of the device.
        config: Schedule, temperature and guidance of the sampling.
        reuse_mask: Number of denoising steps for which kept sets are reused. 1 turns reuse off.
        metric: ``expected_agreement`` or ``agreement``.
        block: Range of examples to score. None means all.
    """

    name: ClassVar[str] = "denoising"
    phases: ClassVar[tuple[str, ...]] = ()

    sequences: int = 64
    length: int = 96
    seed: int = 0
    batch: int | None = None
    config: DenoisingConfig = field(default_factory=partial(DenoisingConfig, remasking=RANDOM, temperature=TEMPERATURE))
    reuse_mask: int = 1
    metric: str = EXPECTED_AGREEMENT
    block: ExampleBlock | None = None

    def __post_init__(self) -> None:
        check_metric(self.name, self.metric)
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
        """Return the name, the version and the options that change a score."""
        return {
            "task": self.name,
            "version": VERSION,
            "length": self.length,
            "seed": self.seed,
            "how": self.config.to_json(),
            "reuse_mask": self.reuse_mask,
            "metric": self._metric,
            EXAMPLES: self.example_block.to_json(),
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
        sampled = sample_by_denoising(lm, self.example_block, self.length, self.config, self.seed, progress)
        return {"tokens": sampled.tokens.tolist(), "step": sampled.step.tolist()}

    def workload(self, lm: LanguageModel) -> Workload:
        """Return the work of one trial, see `EstimatedTask`.

        Args:
            lm: The model.
        """
        steps = self.config.steps or self.length
        work = prefill_workload(len(self.example_block), self.length + 1, passes=steps * self.config.rows_per_sequence)
        return replace(work, preparation=work)

    @torch.inference_mode()
    def score(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        sparsifier: Sparsifier | None = None,
        progress: Progress = ignore_progress,
    ) -> Scores:
        """Return the score of each sequence.

        Args:
            lm: Masked diffusion model.
            examples: Examples from `prepare`.
            sparsifier: Sparsifier attached to the model, or None.
            progress: Called with the sequences done and in total.

        Returns:
            Scores with the metric ``expected_agreement`` or ``agreement``.

        Raises:
            ModelError: The model is not a masked diffusion model, or has no mask token.
            NonFiniteOutputError: The model's logits are NaN or infinite.
        """
        tokens = torch.tensor(examples["tokens"])
        batch = max_logit_rows(lm.model, tokens.shape[1], self.batch_rows(lm))
        replay = SampledDenoising(tokens, torch.tensor(examples["step"]), batch, self.config)
        run = RunContext(sparsifier, progress)
        if self._metric == AGREEMENT:
            predicted_tokens = replay.predict(lm, run)
            scores = predicted_tokens == replay.tokens
        else:
            predicted = predict_with_probabilities(lm, replay, run)
            predicted_tokens = predicted.tokens
            scores = predicted.probabilities
        is_sampled = replay.filled_at >= 0
        values: np.ndarray = ((scores.double() * is_sampled).sum(1) / is_sampled.sum(1)).numpy()
        predictions = tokens_to_text(predicted_tokens.tolist())
        return Scores(self._metric, values, higher_is_better=True, predictions=predictions)

    @property
    def _metric(self) -> str:
        """Name of the metric that the scores have."""
        return self.metric if self.config.remasking == RANDOM else AGREEMENT
