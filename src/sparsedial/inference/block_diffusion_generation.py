"""Text generation with a block diffusion model's own `generate` (transformers' diffusion_gemma)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from sparsedial.errors import NonFiniteOutputError
from sparsedial.hooks.forward_tracker import PerForwardContext
from sparsedial.inference.nonfinite_outputs import GenerationCheck, describe_nonfinite_logits
from sparsedial.inference.run_context import DEFAULT_RUN, RunContext
from sparsedial.models.kind import BLOCK_DIFFUSION, detect_kind


@torch.inference_mode()
def generate_blocks(model: Any, input_ids: torch.Tensor, run: RunContext = DEFAULT_RUN, **options: Any) -> torch.Tensor:
    """Generate tokens with the model's own `generate`, after setting the random seed.

    For the forward passes that denoise, the phase "generation" and the denoising step are reported to the sparsifier.
    Steps are counted from 0 in every block. They are counted by a streamer, which the model calls with a draft at the
    end of each step. No step is reported for the forward passes that encode a finished block.

    Args:
        model: Model with a ``decoder`` that only denoising calls, and with a `generate` that accepts a streamer with
            a method ``put_draft``.
        input_ids: Token IDs of the prompts, shape [batch, tokens].
        run: Settings of the evaluation. No progress is reported.
        **options: Further arguments of `generate`, such as ``max_new_tokens`` and ``max_denoising_steps``.

    Returns:
        Token IDs of prompts and generated tokens, shape [batch, tokens].

    Raises:
        ModelError: The model is not a block diffusion model.
        NonFiniteOutputError: A logit is NaN or infinite.
    """
    detect_kind(model, BLOCK_DIFFUSION)
    tokens, is_finite = _generate(model, input_ids, run, options)
    if not is_finite:
        repeat = partial(_generate, model, input_ids, run, options)
        raise NonFiniteOutputError(describe_nonfinite_logits(model, repeat))
    return tokens


def _generate(
    model: Any, input_ids: torch.Tensor, run: RunContext, options: Mapping[str, Any]
) -> tuple[torch.Tensor, bool]:
    """Return the token IDs of prompts and generated tokens, and whether all logits are finite."""
    from transformers import LogitsProcessorList

    check = GenerationCheck()
    options = {**options, "logits_processor": LogitsProcessorList([check])}
    step_counter = _StepCounter()

    def describe_forward() -> AbstractContextManager[None]:
        return run.observe(phase="generation", step=step_counter.step)

    per_forward: AbstractContextManager[Any] = nullcontext()
    if run.sparsifier is not None:
        options["streamer"] = step_counter
        per_forward = PerForwardContext(model.model, describe_forward)
    with torch.random.fork_rng(), per_forward:
        torch.manual_seed(run.seed)
        output = model.generate(input_ids, **options)
    tokens = output if isinstance(output, torch.Tensor) else output.sequences
    return tokens, bool(check.is_finite().all())


class _StepCounter:
    """Streamer that counts the denoising steps of the current block.

    Attributes:
        step: Index of the current step.
    """

    def __init__(self) -> None:
        self.step = 0

    def put(self, value: torch.Tensor) -> None:
        """Reset the step. The model calls this method with the prompt and with each finished block."""
        self.step = 0

    def put_draft(self, value: torch.Tensor) -> None:
        """Advance the step. The model calls this method with a draft at the end of each denoising step."""
        self.step += 1

    def end(self) -> None:
        """Do nothing. The model calls this method at the end of the generation."""
