"""Context of one forward pass: its phase, its denoising step and its real tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparsedial.hooks.forward_arguments import TokenShape

PREFILL = "prefill"
GENERATION = "generation"
PHASES = (PREFILL, GENERATION)

THINKING = "thinking"
ANSWER = "answer"
SEGMENTS = (THINKING, ANSWER)
"""Parts of a generated text: what a model writes for itself between two markers, and all the rest."""

Thinking = bool | torch.Tensor
"""Whether the tokens of a forward pass belong to the thinking: for all of them, or one entry per token."""


@dataclass(frozen=True, eq=False)
class UnknownPadding:
    """Reason why it is unknown which tokens of a forward pass are real.

    Attributes:
        reason: What is not known, as a sentence without the final full stop.
        mask: Attention mask that could not be assigned to the tokens. If it contains no padding, all tokens are real.
            None if there may be padding in any case.
    """

    reason: str
    mask: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class ForwardContext:
    """Description of the forward pass that is currently running.

    The defaults describe a forward pass in which all tokens are real.

    Attributes:
        phase: "prefill" or "generation".
        step: Denoising step of a diffusion model, or None for autoregressive models.
        real_tokens: Boolean tensor with one entry per token, in any shape. It is False for padding. None means that
            all tokens are real.
        masked_tokens: Boolean tensor with one entry per token, in any shape. It is True for the tokens that a
            diffusion model has yet to fill in. None if the model has no such tokens.
        is_single_cpu_token: True if the forward processes exactly one real token on the CPU. It is determined only
            if the dispatcher can be bypassed, and is False otherwise.
        can_bypass_dispatcher: True if no compiler, dispatch mode, profiler or CUDA graph capture observes the
            operators of this forward.
        token_shape: Number of rows and of tokens per row, or None if they are unknown.
        generation_tokens: Boolean tensor that is True for tokens in the phase "generation", if ``phase`` does not hold
            for all tokens or is known only on the device. Its shape is that of ``real_tokens``, or empty.
        states_real_tokens: True if the user stated the real tokens with `Sparsifier.observe`.
        unknown_padding: Reason why the real tokens are unknown, or None if they are known.
        thinking: Whether the tokens in the phase "generation" belong to the thinking. A tensor is boolean, with one
            entry per token, in any shape. None if the text is not divided into segments.
    """

    phase: str = PREFILL
    step: int | None = None
    real_tokens: torch.Tensor | None = None
    masked_tokens: torch.Tensor | None = None
    is_single_cpu_token: bool = False
    can_bypass_dispatcher: bool = False
    token_shape: TokenShape | None = None
    generation_tokens: torch.Tensor | None = None
    states_real_tokens: bool = False
    unknown_padding: UnknownPadding | None = None
    thinking: Thinking | None = None

    @property
    def segment(self) -> str | None:
        """The segment of all tokens in the phase "generation". None if it is not the same for all, or is unknown."""
        if not isinstance(self.thinking, bool):
            return None
        return THINKING if self.thinking else ANSWER
