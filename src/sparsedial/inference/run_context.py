"""Settings that all forward passes of one evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch

from sparsedial.hooks.forward_context import Thinking
from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.inference.thinking_segments import SegmentDivider, SegmentReader

Progress = Callable[[int, int], None]
"""Callback that receives the number of completed units of work and their total number."""


def ignore_progress(completed: int, total: int) -> None:
    """Ignore the progress. This is the default wherever a `Progress` is accepted.

    Args:
        completed: Number of completed units of work.
        total: Number of all units of work.
    """


def ignore_speed(tokens_per_second: float) -> None:
    """Ignore the speed of text generation. This is the default of `RunContext`.

    Args:
        tokens_per_second: Number of tokens that were generated per second so far.
    """


@runtime_checkable
class SpeedListener(Protocol):
    """Interface of progress callbacks that also show the speed of text generation."""

    def report_speed(self, tokens_per_second: float) -> None:
        """Show the speed.

        Args:
            tokens_per_second: Number of tokens that were generated per second so far.
        """
        ...


def find_speed_callback(progress: Progress) -> Callable[[float], None]:
    """Return the function to which the speed of text generation is reported.

    Args:
        progress: Callback of a task.

    Returns:
        The method ``report_speed`` of the callback, or `ignore_speed` if it has none.
    """
    if isinstance(progress, SpeedListener):
        return progress.report_speed
    return ignore_speed


@dataclass(frozen=True)
class RunContext:
    """Settings that all forward passes of one evaluation share.

    Attributes:
        sparsifier: Sparsifier that is attached to the model. None means that the model is dense.
        progress: Callback that receives the number of completed units of work and their total number.
        batch_tokens: Maximum number of tokens per forward pass, padding included. A longer sequence is run
            in its own forward pass.
        seed: Random seed.
        report_speed: Callback that receives the number of tokens that were generated per second so far.
        divider: Divider of generated texts into thinking and answer. None means that they are not divided.
    """

    sparsifier: Sparsifier | None = None
    progress: Progress = ignore_progress
    batch_tokens: int = 4096
    seed: int = 0
    report_speed: Callable[[float], None] = ignore_speed
    divider: SegmentDivider | None = None

    def observe(
        self,
        phase: str | None = None,
        real: torch.Tensor | None = None,
        *,
        step: int | None = None,
        masked: torch.Tensor | None = None,
        thinking: Thinking | None = None,
    ) -> AbstractContextManager[None]:
        """Describe the forward passes inside the `with` block to the sparsifier. Do nothing if the model is dense.

        Args:
            phase: ``prefill`` or ``generation``. None means that the sparsifier infers it.
            real: Boolean mask of the tokens that are not padding, one entry per token of the forward pass.
            step: Denoising step of a diffusion model.
            masked: Boolean mask of the tokens that a diffusion model has not filled in yet.
            thinking: Whether the tokens belong to the thinking: for all of them, or one entry per token.

        Returns:
            A context manager. See `Sparsifier.observe`.
        """
        if self.sparsifier is None:
            return nullcontext()
        return self.sparsifier.observe(phase=phase, step=step, real=real, masked=masked, thinking=thinking)

    def read_segments(self, prompt: Sequence[int]) -> SegmentReader | None:
        """Return a reader of the segments of a text while it is generated. None if nobody counts them.

        Args:
            prompt: Token IDs of its prompt.
        """
        if self.sparsifier is None or self.divider is None:
            return None
        return self.divider.read_prompt(prompt)

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
