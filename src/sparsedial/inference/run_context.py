"""Settings that all forward passes of one evaluation share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch

from sparsedial.hooks.sparsifier import Sparsifier

Progress = Callable[[int, int], None]
"""Callback that receives the number of completed units of work and their total number."""


def ignore_progress(completed: int, total: int) -> None:
    """Ignore the progress. This is the default wherever a `Progress` is accepted.

    Args:
        completed: Number of completed units of work.
        total: Number of all units of work.
    """


@dataclass(frozen=True)
class RunContext:
    """Settings that all forward passes of one evaluation share.

    Attributes:
        sparsifier: Sparsifier that is attached to the model. None means that the model is dense.
        progress: Callback that receives the number of completed units of work and their total number.
        batch_tokens: Maximum number of tokens per forward pass, padding included. A longer sequence is run
            in its own forward pass.
        seed: Random seed.
    """

    sparsifier: Sparsifier | None = None
    progress: Progress = ignore_progress
    batch_tokens: int = 4096
    seed: int = 0

    def observe(
        self,
        phase: str | None = None,
        real: torch.Tensor | None = None,
        *,
        step: int | None = None,
        masked: torch.Tensor | None = None,
    ) -> AbstractContextManager[None]:
        """Describe the forward passes inside the `with` block to the sparsifier. Do nothing if the model is dense.

        Args:
            phase: ``prefill`` or ``generation``. None means that the sparsifier infers it.
            real: Boolean mask of the tokens that are not padding, one entry per token of the forward pass.
            step: Denoising step of a diffusion model.
            masked: Boolean mask of the tokens that a diffusion model has not filled in yet.

        Returns:
            A context manager. See `Sparsifier.observe`.
        """
        if self.sparsifier is None:
            return nullcontext()
        return self.sparsifier.observe(phase=phase, step=step, real=real, masked=masked)

    def part(self, start: int, total: int) -> RunContext:
        """Return a context for one part of the work. Its progress is reported as progress of the whole work.

        Args:
            start: Number of units of work that are completed before the part begins.
            total: Number of all units of work.

        Returns:
            A context that differs from this one only in its progress callback.

        >>> reports = []
        >>> whole = RunContext(progress=lambda completed, total: reports.append((completed, total)))
        >>> whole.part(start=6, total=10).progress(1, 4)
        >>> reports
        [(7, 10)]
        """

        def report(completed: int, _: int) -> None:
            self.progress(start + completed, total)

        return replace(self, progress=report)

    def without_progress(self) -> RunContext:
        """Return a context that differs from this one only in that it reports no progress."""
        return replace(self, progress=ignore_progress)


DEFAULT_RUN = RunContext()
"""Dense model, no progress reports, default batch size and seed."""
