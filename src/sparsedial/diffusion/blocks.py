"""Block diffusion with the model's own `generate` (transformers' diffusion_gemma): the dial is told the step."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch

from sparsedial.diffusion.kinds import BLOCK_DIFFUSION, kind_of
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
            options["streamer"] = stack.enter_context(_Teller(model, dial))
        made = model.generate(input_ids, **options)
    return made if isinstance(made, torch.Tensor) else made.sequences


class _Teller:
    """A streamer that keeps the step, and hooks that tell it while the denoising decoder runs."""

    def __init__(self, model: Any, dial: Dial) -> None:
        self._model, self._dial, self._step = model.model, dial, 0
        self._handles: list[Any] = []
        self._open: AbstractContextManager[None] | None = None

    def put(self, value: torch.Tensor) -> None:
        """A prompt, or a finished block."""
        self._step = 0

    def put_draft(self, value: torch.Tensor) -> None:
        """A denoising step is over."""
        self._step += 1

    def end(self) -> None:
        """Nothing more comes."""

    def __enter__(self) -> _Teller:
        self._handles = [
            self._model.register_forward_pre_hook(self._before, prepend=True),
            self._model.register_forward_hook(self._after, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, *_: Any) -> None:
        self._open = self._dial.observe(phase="generation", step=self._step)
        self._open.__enter__()

    def _after(self, *_: Any) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
