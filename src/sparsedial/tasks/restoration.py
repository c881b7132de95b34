"""Masked prediction: the share of masked tokens that a diffusion model predicts correctly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch

from sparsedial.errors import SpecError
from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.inference.batching import batch_equal_lengths
from sparsedial.inference.denoising_config import RANDOM, DenoisingConfig
from sparsedial.inference.logit_budget import max_logit_rows
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel, MaskedTokens
from sparsedial.inference.nonfinite_outputs import check_finite_scores, predict_tokens
from sparsedial.inference.run_context import Progress, RunContext, ignore_progress
from sparsedial.inference.sampled_denoising import SampledDenoising, predict_with_probabilities
from sparsedial.inference.seeds import derive_seed
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.agreement_metrics import EXPECTED_AGREEMENT, check_metric
from sparsedial.tasks.base import Scores, tokens_to_text
from sparsedial.tasks.batch_option import BatchOption
from sparsedial.tasks.diffusion_sampling import sample_by_denoising
from sparsedial.tasks.example_blocks import EXAMPLES, ExampleBlock, SampledExamples
from sparsedial.tasks.model_kinds import MaskedDiffusionTask
from sparsedial.tasks.option_parsing import INTERNAL, check_at_least
from sparsedial.tasks.workload import Workload, prefill_workload

VERSION = 3  # incremented when the same settings would give other numbers


@dataclass(frozen=True)
class MaskedExamples:
    """Sequences and the positions at which they are masked.

    Attributes:
        tokens: Token ids of each sequence, without masks.
        masked: Masked positions of each sequence, at least one.
    """

    tokens: list[list[int]]
    masked: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; `from_json` reads it back."""
        return {"tokens": self.tokens, "masked": self.masked}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MaskedExamples:
        """Return the examples in ``data``.

        Args:
            data: Plain JSON from `to_json`: the token ids of each sequence under the key ``tokens``, and its masked
                positions under ``masked``.
        """
        return cls(data["tokens"], data["masked"])


@dataclass(frozen=True)
class Restoration(BatchOption, MaskedDiffusionTask, SampledExamples):
    """Task in which a masked diffusion model predicts masked tokens of sequences sampled from the dense model.

    Sequences are sampled by denoising at temperature 1 and in random order, after the BOS token if the model has one.
    With the metric ``expected_agreement``, the score of a sequence is the mean probability of the arg max under the
    dense model in the same masked sequence: the expected share of the masks at which the arg max is a token that the
    dense model would fill in. With ``agreement``, it is the share of the masks at which the arg max is the original
    token (``restored``). These are two quantities, because an original token was sampled when other tokens were filled
    in. As with `SelfPrediction`, the dense score is below 1, so sparse scores are divided by it. The fields are the
    options of the task.

    Attributes:
        sequences: Number of examples.
        length: Number of sampled tokens per example.
        seed: Random seed of the sampling and of the masks.
        batch: Maximum number of sequences per forward pass. Fewer are used if their logits would exceed 1 GiB. None
            means the default of the device.
        fraction: Share of the sampled tokens that are masked again, above 0 and at most 1.
        diffusion_steps: Denoising steps of the sampling. The default is one per token.
        metric: ``expected_agreement`` or ``agreement``.
        block: Range of examples to score. None means all. It is no option.
    """

    name: ClassVar[str] = "restoration"
    reuse_mask: ClassVar[int] = 1
    phases: ClassVar[tuple[str, ...]] = ()

    sequences: int = 64
    length: int = 96
    seed: int = 0
    batch: int | None = None
    fraction: float = 0.5
    diffusion_steps: int | None = None
    metric: str = EXPECTED_AGREEMENT
    block: ExampleBlock | None = field(default=None, metadata=INTERNAL)

    def __post_init__(self) -> None:
        check_at_least(self.name, 1, sequences=self.sequences, length=self.length, batch=self.batch)
        check_fraction(self.name, self.fraction)
        check_metric(self.name, self.metric)
        DenoisingConfig(steps=self.diffusion_steps).schedule(self.length)

    def identity(self) -> dict[str, Any]:
        """Return the name, the version and the options that change a score."""
        return {
            "task": self.name,
            "version": VERSION,
            "length": self.length,
            "seed": self.seed,
            "fraction": self.fraction,
            "steps": self.diffusion_steps,
            "metric": self.metric,
            EXAMPLES: self.example_block.to_json(),
        }

    def prepare(self, lm: LanguageModel, progress: Progress = ignore_progress) -> dict[str, Any]:
        """Sample the sequences from the dense model, and choose their masks.

        Args:
            lm: Masked diffusion model.
            progress: Called with the denoising steps done and in total.

        Returns:
            `MaskedExamples` as plain JSON.

        Raises:
            ModelError: The model is not a masked diffusion model, or has no mask token.
            TaskError: The model has fewer positions than the sequences have tokens.
        """
        config = DenoisingConfig(steps=self.diffusion_steps, remasking=RANDOM, temperature=1.0)
        block = self.example_block
        sampled = sample_by_denoising(lm, block, self.length, config, self.seed, progress)
        tokens = sampled.tokens.tolist()
        masks = draw_masks(tokens, self.length, self.fraction, self.seed, first=block.first)
        return MaskedExamples(tokens, masks).to_json()

    def workload(self, lm: LanguageModel) -> Workload:
        """Return the work of one trial, see `EstimatedTask`.

        Args:
            lm: The model.
        """
        rows = len(self.example_block)
        sampling = prefill_workload(rows, self.length + 1, passes=self.diffusion_steps or self.length)
        return replace(prefill_workload(rows, self.length + 1), preparation=sampling)

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
            Scores with the metric ``expected_agreement`` or ``restored``.

        Raises:
            ModelError: The model is not a masked diffusion model, or has no mask token.
            NonFiniteOutputError: The model's logits are NaN or infinite.
        """
        if self.metric == EXPECTED_AGREEMENT:
            return self._score_expected(lm, MaskedExamples.from_json(examples), sparsifier, progress)
        restored = restore(lm, MaskedExamples.from_json(examples), self.batch_rows(lm), sparsifier, progress)
        return Scores("restored", restored.shares, higher_is_better=True, predictions=tokens_to_text(restored.tokens))

    @torch.inference_mode()
    def _score_expected(
        self, lm: LanguageModel, examples: MaskedExamples, sparsifier: Sparsifier | None, progress: Progress
    ) -> Scores:
        """Return the mean probability of the arg max under the dense model. All sequences have the same length."""
        tokens = torch.tensor(examples.tokens)
        filled_at = torch.full_like(tokens, -1)
        for row, positions in enumerate(examples.masked):
            filled_at[row, positions] = 0
        batch = max_logit_rows(lm.model, tokens.shape[1], self.batch_rows(lm))
        masked = SampledDenoising(tokens, filled_at, batch, DenoisingConfig(temperature=1.0), is_single_pass=True)
        predicted = predict_with_probabilities(lm, masked, RunContext(sparsifier, progress))
        is_masked = filled_at == 0
        values: np.ndarray = ((predicted.probabilities.double() * is_masked).sum(1) / is_masked.sum(1)).numpy()
        rows = [predicted.tokens[row, positions].tolist() for row, positions in enumerate(examples.masked)]
        return Scores(EXPECTED_AGREEMENT, values, higher_is_better=True, predictions=tokens_to_text(rows))


def check_fraction(task_name: str, fraction: float) -> None:
    """Raise an error if the fraction of masked tokens is out of range.

    Args:
        task_name: Name of the task, for the error message.
        fraction: Share of the tokens to mask.

    Raises:
        SpecError: The fraction is not above 0 or is larger than 1.
    """
    if not 0 < fraction <= 1:
        raise SpecError(f"{task_name}: fraction {fraction}: expected a number above 0 and at most 1")


def draw_masks(
    rows: Sequence[Sequence[int]], length: int, fraction: float, seed: int, first: int = 0
) -> list[list[int]]:
    """Draw the positions at which each row is masked.

    Args:
        rows: Token ids of each sequence.
        length: Only the last ``length`` positions of a row are masked.
        fraction: Share of these positions. At least one position is masked.
        seed: Random seed. The masks of a row depend only on the seed and on the index and length of the row.
        first: Index of the first row. Defaults to 0.

    Returns:
        The sorted positions, for each row.

    >>> [len(positions) for positions in draw_masks([[0, 5, 6, 7, 8], [0, 5]], 4, 0.5, seed=0)]
    [2, 1]
    """
    masks = []
    for index, row in enumerate(rows, first):
        candidates = min(length, len(row))
        start = len(row) - candidates
        generator = torch.Generator().manual_seed(derive_seed(seed, "masks", index))
        chosen = torch.randperm(candidates, generator=generator)[: max(1, round(fraction * candidates))]
        masks.append(sorted((chosen + start).tolist()))
    return masks


@dataclass(frozen=True)
class RestoredExamples:
    """Predictions of masked tokens.

    Attributes:
        shares: Share of the masks of each sequence at which the arg max is the original token, shape [sequences].
        tokens: The arg max at each masked position of each sequence, in the order of the positions.
    """

    shares: np.ndarray
    tokens: list[list[int]]


@torch.inference_mode()
def restore(
    lm: LanguageModel,
    examples: MaskedExamples,
    batch_size: int,
    sparsifier: Sparsifier | None = None,
    progress: Progress = ignore_progress,
) -> RestoredExamples:
    """Predict the masked tokens of sequences.

    Args:
        lm: Masked diffusion model.
        examples: Sequences and their masks.
        batch_size: Maximum number of sequences of the maximum length per forward pass. Fewer are used if their logits
            would exceed 1 GiB.
        sparsifier: Sparsifier attached to the model, or None.
        progress: Called with the sequences done and in total.

    Returns:
        The predictions, in the order of the sequences.

    Raises:
        ModelError: The model is not a masked diffusion model, or has no mask token.
        NonFiniteOutputError: The model's logits are NaN or infinite.
    """
    model = MaskedDiffusionModel.from_language_model(lm)
    lengths = [len(row) for row in examples.tokens]
    shares = np.zeros(len(lengths))
    tokens: list[list[int]] = [[]] * len(lengths)
    completed = 0
    run = RunContext(sparsifier)
    rows = max_logit_rows(lm.model, max(lengths), batch_size)
    for indices in batch_equal_lengths(lengths, rows * max(lengths)):
        restored = _restore_batch(model, examples, indices, run)
        shares[indices] = restored.shares
        for index, row in zip(indices, restored.tokens, strict=True):
            tokens[index] = row
        completed += len(indices)
        progress(completed, len(lengths))
    return RestoredExamples(shares, tokens)


def _restore_batch(
    model: MaskedDiffusionModel, examples: MaskedExamples, indices: Sequence[int], run: RunContext
) -> RestoredExamples:
    """Predict the masked tokens of some examples, and check that the logits are finite."""
    restored = _restore_rows(model, examples, indices, run)
    check_finite_scores(model.model, restored.shares, lambda row: _restore_rows(model, examples, [indices[row]], run))
    return restored


def _restore_rows(
    model: MaskedDiffusionModel, examples: MaskedExamples, indices: Sequence[int], run: RunContext
) -> RestoredExamples:
    """Predict the masked tokens of some examples. Their shares are NaN if the logits are."""
    tokens = torch.tensor([examples.tokens[index] for index in indices])
    masked = torch.zeros_like(tokens, dtype=torch.bool)
    for row, index in enumerate(indices):
        masked[row, examples.masked[index]] = True
    tokens = tokens.to(model.device)
    masked = masked.to(model.device)
    noisy = MaskedTokens(tokens.masked_fill(masked, model.mask_token), masked, ~masked)
    logits = model.logits(noisy, phase="prefill", run=run)
    logits[..., model.mask_token] = -torch.inf  # the mask token is never a prediction
    predicted_tokens, is_finite = predict_tokens(logits)
    hits = (predicted_tokens == tokens) & masked
    shares = (hits.sum(1).double() / masked.sum(1)).masked_fill(~is_finite.all(1), torch.nan)
    best = predicted_tokens.cpu()
    rows = [best[row, examples.masked[index]].tolist() for row, index in enumerate(indices)]
    return RestoredExamples(shares.cpu().numpy(), rows)
