"""Block diffusion with the model's own `generate` (transformers' diffusion_gemma): the dial is told the step."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from sparsedial.diffusion.kinds import BLOCK_DIFFUSION, kind_of
from sparsedial.forwards import Telling
from sparsedial.sparsify import Dial


@torch.inference_mode()
def generate_blocks(
    model: Any, input_ids: torch.Tensor, *, seed: int = 0, dial: Dial | None = None, **options: Any
) -> torch.Tensor:
    """The model's own `generate`, from a seed: ids ``[B, P + generated]``.

    While it denoises, the dial is told that this is generation, and the step, counted from 0 in every block. It is the
    model's loop that says when a step is over: it puts out a draft. What it encodes between blocks has no step.

    Args:
        model: with a ``decoder`` that only denoising calls, and a `generate` that takes a streamer with ``put_draft``.
        input_ids: prompts ``[B, P]``. options: of its `generate` (``max_new_tokens``, ``max_denoising_steps``, ...).

    Raises:
        ModelError: it is no block diffusion model.
    """
    kind_of(model, BLOCK_DIFFUSION)
    with torch.random.fork_rng(), ExitStack() as stack:
        torch.manual_seed(seed)
        if dial is not None:
            options["streamer"] = steps = _Steps()
            stack.enter_context(Telling(model.model, lambda: dial.observe(phase="generation", step=steps.now)))
        made = model.generate(input_ids, **options)
    return made if isinstance(made, torch.Tensor) else made.sequences


class _Steps:
    """A streamer that keeps the step."""

    def __init__(self) -> None:
        self.now = 0

    def put(self, value: torch.Tensor) -> None:
        """A prompt, or a finished block."""
        self.now = 0

    def put_draft(self, value: torch.Tensor) -> None:
        """A denoising step is over."""
        self.now += 1

    def end(self) -> None:
        """Nothing more comes."""
