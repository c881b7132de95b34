"""Context of one forward pass: its phase, its denoising step and its real tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PREFILL = "prefill"
GENERATION = "generation"
PHASES = (PREFILL, GENERATION)


@dataclass(frozen=True, eq=False)
class ForwardContext:
    """Description of the forward pass that is currently running.

    The defaults describe a call outside of a model's forward pass, such as a call of a single layer.

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
    """

    phase: str = PREFILL
    step: int | None = None
    real_tokens: torch.Tensor | None = None
    masked_tokens: torch.Tensor | None = None
    is_single_cpu_token: bool = False
    can_bypass_dispatcher: bool = False
