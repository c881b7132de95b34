"""Forward passes of a masked diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsedial.inference.run_context import DEFAULT_RUN, RunContext
from sparsedial.models.loading import LanguageModel


@dataclass(frozen=True)
class MaskedTokens:
    """A batch of sequences in which some tokens are masked. All tensors have the shape [batch, tokens].

    Attributes:
        ids: Token IDs, int64. Masked tokens hold the mask token.
        is_masked: True for the tokens to fill in.
        is_prompt: True for the tokens of the prompt, which classifier-free guidance masks in its unconditional rows.
    """

    ids: torch.Tensor
    is_masked: torch.Tensor
    is_prompt: torch.Tensor

    def with_unconditional_rows(self, mask_token: int) -> MaskedTokens:
        """Return the batch, followed by the same rows with the prompt masked as well.

        Args:
            mask_token: ID of the mask token.
        """
        return MaskedTokens(
            torch.cat([self.ids, self.ids.masked_fill(self.is_prompt, mask_token)]),
            torch.cat([self.is_masked, self.is_masked | self.is_prompt]),
            torch.cat([self.is_prompt, self.is_prompt]),
        )


@dataclass(frozen=True)
class MaskedDiffusionModel:
    """A masked diffusion model together with its mask token.

    Attributes:
        model: Model that is called with ``input_ids`` and returns ``logits`` for the tokens at their own positions.
        mask_token: Token ID of the mask.
    """

    model: Any
    mask_token: int

    @classmethod
    def from_language_model(cls, lm: LanguageModel) -> MaskedDiffusionModel:
        """Return the masked diffusion model in a loaded language model.

        Args:
            lm: The loaded model.

        Returns:
            The model with its mask token.

        Raises:
            ModelError: The model is of another kind, or its mask token is not known.
        """
        return cls(lm.model, lm.require_mask_token())

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def logits(
        self,
        tokens: MaskedTokens,
        *,
        phase: str,
        step: int | None = None,
        guidance: float = 0.0,
        run: RunContext = DEFAULT_RUN,
    ) -> torch.Tensor:
        """Return the logits of one forward pass. With guidance, the batch is run with and without the prompt.

        Args:
            tokens: Batch of masked sequences without padding.
            phase: Phase that is reported to the sparsifier.
            step: Denoising step that is reported to the sparsifier.
            guidance: Weight of classifier-free guidance. See `DenoisingConfig`.
            run: Settings of the evaluation.

        Returns:
            Logits of shape [batch, tokens, vocabulary].
        """
        if guidance:
            tokens = tokens.with_unconditional_rows(self.mask_token)
        with run.observe(phase=phase, step=step, masked=tokens.is_masked):
            logits: torch.Tensor = self.model(input_ids=tokens.ids).logits
        if not guidance:
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + (guidance + 1) * (conditional - unconditional)
