"""What a task is: examples prepared once, then one score per example, dense or under a dial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from sparsedial.models import LanguageModel
from sparsedial.sparsify import Dial

Progress = Callable[[int, int], None]
"""Called with (done, of) while a task runs."""


def no_progress(done: int, of: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Scores:
    """One number per example, in the order of the prepared examples.

    Attributes:
        metric: what the numbers are (``acc``, ``exact_match``, ...).
        values: float64 ``[N]``; the task's score is their mean.
        details: further figures of this evaluation (generated length, ...), by name.
        steps: sparsity and likeness of kept sets along the denoising steps (`diffusion.overlap.Steps.table`), where
            there were any.
    """

    metric: str
    values: np.ndarray
    details: Mapping[str, float] = field(default_factory=dict)
    steps: pd.DataFrame | None = None

    @property
    def mean(self) -> float:
        """The task's score."""
        return float(self.values.mean())


@dataclass(frozen=True)
class Group:
    """Tasks that were asked for by one name.

    Attributes:
        name: of the group. by_size: whether its score is the mean over its examples (True), over its tasks (False), or
            whether it has none, being but a list of tasks (None). members: its tasks.
    """

    name: str
    by_size: bool | None = None
    members: tuple[str, ...] = ()


class Task(Protocol):
    """What "performance" means. A task measures; it stores nothing."""

    @property
    def name(self) -> str:
        """A short name, unique in a run."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything about the task that moves the number, as plain JSON: version, config, limit, seed, batch size."""
        ...

    def prepare(self, lm: LanguageModel, progress: Progress = no_progress) -> dict[str, Any]:
        """The examples, from the dense model where it is needed, as plain JSON (so that a run can resume with them)."""
        ...

    def score(
        self, lm: LanguageModel, examples: dict[str, Any], dial: Dial | None = None, progress: Progress = no_progress
    ) -> Scores:
        """Score ``lm`` on ``examples``. ``dial`` is attached already; `observe` tells it phases and padding."""
        ...


def observe(
    dial: Dial | None, phase: str | None = None, real: torch.Tensor | None = None
) -> AbstractContextManager[None]:
    """`Dial.observe`, or nothing where the model is dense."""
    return nullcontext() if dial is None else dial.observe(phase=phase, real=real)
