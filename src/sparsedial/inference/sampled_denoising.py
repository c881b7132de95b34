"""Replay of denoising trajectories that were sampled from a masked diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from sparsedial.errors import NonFiniteOutputError
from sparsedial.hooks.sparsifier_pause import pause_sparsifiers
from sparsedial.hooks.vector_reservation import is_sparsified
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.dense_reference import (
    TOP_TOKENS,
    DenseReference,
    find_reference,
    gather_logits,
    keep_reference,
    reference_key,
    summarize_logits,
)
from sparsedial.inference.logit_budget import vocabulary_size
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel, MaskedTokens
from sparsedial.inference.nonfinite_outputs import describe_nonfinite_logits, predict_tokens
from sparsedial.inference.output_stage import find_output_stage, last_hidden_state, record_base_models
from sparsedial.inference.run_context import DEFAULT_RUN, Progress, RunContext, ignore_progress
from sparsedial.models.loading import LanguageModel

OnStep = Callable[[slice, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Receives the sequences of a forward pass, a mask of positions in them (on the CPU), the logits of these positions,
shape [positions, vocabulary], and their arg max."""


@dataclass(frozen=True, eq=False)
class SampledDenoising:
    """Sampled sequences, and the steps in which their tokens were filled in.

    Attributes:
        tokens: Token IDs, int64 of shape [sequences, tokens], on the CPU.
        filled_at: Step in which each token was filled in, in the same shape. -1 for tokens that are never masked.
        batch: Sequences per forward pass.
        config: Settings of the sampling.
        is_single_pass: True if one forward pass, which counts as prefill, fills in the tokens, and not the steps of a
            denoising. Defaults to False.
    """

    tokens: torch.Tensor
    filled_at: torch.Tensor
    batch: int
    config: DenoisingConfig
    is_single_pass: bool = False

    def predict(self, lm: LanguageModel, run: RunContext = DEFAULT_RUN, on_step: OnStep | None = None) -> torch.Tensor:
        """Return the arg max at each position in the step in which it was filled in.

        Args:
            lm: Masked diffusion model.
            run: Settings of the evaluation. The progress counts sequences.
            on_step: Called after each forward pass.

        Returns:
            Token IDs in the shape of ``tokens``, on the CPU. They are 0 for tokens that are never masked.

        Raises:
            ModelError: The model is not a masked diffusion model, or has no mask token.
            NonFiniteOutputError: The model's logits are NaN or infinite.
        """
        predicted_tokens = torch.zeros_like(self.tokens)
        for first in range(0, len(self.tokens), self.batch):
            rows = slice(first, first + self.batch)
            self._predict_rows(lm, rows, run, predicted_tokens, on_step)
            run.progress(min(rows.stop, len(self.tokens)), len(self.tokens))
        return predicted_tokens

    def _predict_rows(
        self,
        lm: LanguageModel,
        rows: slice,
        run: RunContext,
        predicted_tokens: torch.Tensor,
        on_step: OnStep | None = None,
    ) -> None:
        """Write the arg max at each position of some sequences into ``predicted_tokens``."""
        broken: list[torch.Tensor] = []
        for is_selected, logits in self._replay(lm, rows, run):
            best, is_finite = predict_tokens(logits)
            broken.append(~is_finite.all(1))
            mask = is_selected.cpu()
            selected = best[is_selected]
            predicted_tokens[rows][mask] = selected.cpu()
            if on_step is not None:
                on_step(rows, mask, logits[is_selected], selected)
        is_broken = torch.stack(broken).any(0)
        if is_broken.any():
            row = rows.start + int(is_broken.int().argmax())
            repeat = partial(self._run_steps, lm, slice(row, row + 1), run)
            raise NonFiniteOutputError(describe_nonfinite_logits(lm.model, repeat))

    def _run_steps(self, lm: LanguageModel, rows: slice, run: RunContext) -> None:
        for _ in self._replay(lm, rows, run):
            pass

    def _replay(self, lm: LanguageModel, rows: slice, run: RunContext) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield a mask of the positions that are filled in and all logits, for each step of some sequences."""
        model = MaskedDiffusionModel.from_language_model(lm)
        tokens = self.tokens[rows].to(lm.device)
        filled_at = self.filled_at[rows].to(lm.device)
        for step in range(int(self.filled_at.max()) + 1):
            masked = filled_at >= step
            noisy = MaskedTokens(tokens.masked_fill(masked, model.mask_token), masked, filled_at < 0)
            if self.is_single_pass:
                logits = model.logits(noisy, phase="prefill", run=run)
            else:
                logits = model.logits(noisy, phase="generation", step=step, guidance=self.config.guidance, run=run)
            logits[..., model.mask_token] = -torch.inf  # the mask token is never a prediction
            yield filled_at == step, logits


@torch.inference_mode()
def compute_denoising_reference(
    lm: LanguageModel, sampled: SampledDenoising, progress: Progress = ignore_progress
) -> DenseReference:
    """Replay with the dense model and keep the result for `find_denoising_reference`.

    Args:
        lm: Masked diffusion model. Attached sparsifiers have no effect.
        sampled: The trajectories.
        progress: Called with the sequences done and in total.

    Returns:
        The reference. The probabilities of start tokens are 0.

    Raises:
        ModelError: The model is not a masked diffusion model, or has no mask token.
        NonFiniteOutputError: The model's logits are NaN or infinite.
    """
    with pause_sparsifiers():
        reference = _run_dense_model(lm, sampled, progress)
    keep_reference(lm.model, _key(lm, sampled), reference)
    return reference


def find_denoising_reference(lm: LanguageModel, sampled: SampledDenoising) -> DenseReference:
    """Return the reference that `compute_denoising_reference` kept in this process. Compute it if there is none.

    Args:
        lm: Masked diffusion model.
        sampled: The trajectories.

    Returns:
        The reference.

    Raises:
        ModelError: The model is not a masked diffusion model, or has no mask token.
        NonFiniteOutputError: The model's logits are NaN or infinite.
    """
    return find_reference(lm.model, _key(lm, sampled)) or compute_denoising_reference(lm, sampled)


@dataclass(frozen=True, eq=False)
class ScoredPredictions:
    """Predictions of a model, and what the dense model makes of them.

    Attributes:
        tokens: The arg max at each position, as `SampledDenoising.predict` returns it.
        probabilities: The probability of each of these tokens under the dense model, in the same shape.
    """

    tokens: torch.Tensor
    probabilities: torch.Tensor


def predict_with_probabilities(lm: LanguageModel, sampled: SampledDenoising, run: RunContext) -> ScoredPredictions:
    """Predict the tokens, and look up their probabilities under the dense model in the same context.

    Args:
        lm: Masked diffusion model. Without a sparsifier, its own predictions are the dense ones.
        sampled: The trajectories.
        run: Settings of the evaluation.

    Returns:
        The predictions.

    Raises:
        ModelError: The model is not a masked diffusion model, or has no mask token.
        NonFiniteOutputError: The model's logits are NaN or infinite.
    """
    if run.sparsifier is None and not is_sparsified(lm.model):
        reference = compute_denoising_reference(lm, sampled, run.progress)
        return ScoredPredictions(reference.top_tokens[..., 0], reference.best_probabilities)
    tokens = sampled.predict(lm, run)
    return ScoredPredictions(tokens, find_denoising_reference(lm, sampled).find_probabilities(lm, tokens))


def _key(lm: LanguageModel, sampled: SampledDenoising) -> str:
    settings = f"denoising {lm.mask_token} {sampled.batch} {sampled.config} {sampled.is_single_pass}"
    return reference_key(lm.model, settings, sampled.tokens, sampled.filled_at)


def _run_dense_model(lm: LanguageModel, sampled: SampledDenoising, progress: Progress) -> DenseReference:
    shape = sampled.tokens.shape
    count = 1 + min(TOP_TOKENS, vocabulary_size(lm.model))
    top_tokens = torch.zeros(*shape, count, dtype=torch.int32)
    top_probabilities = torch.zeros(*shape, count)
    normalizers = torch.zeros(shape)
    hidden: list[torch.Tensor] = []  # one tensor, which is allocated when the size of the hidden states is known
    temperature = sampled.config.temperature
    stage = None
    if not sampled.config.guidance:  # which combines the logits of two contexts
        stage = find_output_stage(lm.model, sampled.tokens[:1].to(lm.device))

    def summarize(rows: slice, mask: torch.Tensor, logits: torch.Tensor, best: torch.Tensor) -> None:
        summary = summarize_logits(logits, best, temperature)
        top_tokens[rows][mask] = summary.top_tokens.cpu()
        top_probabilities[rows][mask] = summary.top_probabilities.cpu()
        normalizers[rows][mask] = summary.normalizers.cpu()
        if stage is not None:
            states = last_hidden_state(outputs[stage.base][-1])
            if not hidden:
                hidden.append(torch.zeros(*shape, states.shape[-1], dtype=states.dtype))
            hidden[0][rows][mask] = states[mask.to(states.device)].cpu()
        for base_outputs in outputs.values():
            base_outputs.clear()

    with record_base_models(lm.model) as outputs:
        sampled.predict(lm, RunContext(progress=progress), summarize)
    states = hidden[0] if hidden else None
    repeat = partial(_repeat_steps, sampled)
    return DenseReference(repeat, top_tokens, top_probabilities, normalizers, states, stage, temperature)


def _repeat_steps(
    sampled: SampledDenoising, lm: LanguageModel, tokens: torch.Tensor, selected: torch.Tensor
) -> torch.Tensor:
    """Return the logits of the tokens at the selected positions. See `DenseReference.repeat`."""
    token_logits = torch.zeros(tokens.shape)

    def collect(rows: slice, mask: torch.Tensor, logits: torch.Tensor, _: torch.Tensor) -> None:
        token_logits[rows][mask] = gather_logits(logits, tokens[rows][mask])

    with pause_sparsifiers():
        sampled.predict(lm, on_step=collect)
    return token_logits[selected] / sampled.config.temperature
