"""Decode steps that are compiled by ``torch.compile``, with a static cache."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch


class Contender(Protocol):
    """A way to run a model."""

    def attach(self, model: Any) -> AbstractContextManager[Any]:
        """Provide the model as it is run, until the end of the `with` block."""
        ...


class CompiledSteps:
    """A loop of greedy decode steps.

    Args:
        model: The model, which may be accelerated. Its decode steps are compiled when they run for the first time.
        input_ids: The prompt, int64 of shape [1, tokens].
        tokens: Largest number of tokens to generate.
    """

    def __init__(self, model: Any, input_ids: torch.Tensor, tokens: int) -> None:
        self._model = model
        self._step = torch.compile(model, dynamic=False)
        self._input_ids = input_ids
        self._max_length = input_ids.shape[1] + tokens

    @torch.no_grad()
    def run(self, tokens: int, clock: Callable[[], float]) -> float:
        """Return the seconds per decode step. The prompt is not part of the time.

        Args:
            tokens: Number of tokens to generate.
            clock: Function that returns the time in seconds.
        """
        from transformers import StaticCache

        cache = StaticCache(config=self._model.config, max_cache_len=self._max_length)
        output = self._model(self._input_ids, past_key_values=cache, use_cache=True)
        position = self._input_ids.shape[1]
        token = output.logits[:, -1:].argmax(-1)
        start = clock()
        for _ in range(tokens - 1):
            positions = torch.tensor([[position]])
            output = self._step(token, past_key_values=cache, use_cache=True, position_ids=positions)
            token = output.logits.argmax(-1)
            position += 1
        return (clock() - start) / (tokens - 1)


def time_compiled(  # one call per model
    model: Any,
    input_ids: torch.Tensor,
    contenders: Sequence[Contender],
    tokens: int,
    turns: int,
    clock: Callable[[], float],
) -> dict[Contender, list[float]]:
    """Return the seconds per decode step of each contender, one entry per turn. Each runs on a copy of the model.

    Args:
        model: The dense model.
        input_ids: The prompt, int64 of shape [1, tokens].
        contenders: What runs in turns.
        tokens: Tokens to generate.
        turns: Number of turns.
        clock: Function that returns the time in seconds.
    """
    torch._dynamo.reset()
    seconds: dict[Contender, list[float]] = {contender: [] for contender in contenders}
    with ExitStack() as stack:
        loops = {}
        for contender in contenders:
            attached = stack.enter_context(contender.attach(copy.deepcopy(model)))
            loops[contender] = CompiledSteps(attached, input_ids, tokens)
            loops[contender].run(8, clock)
        for _ in range(turns):
            for contender, loop in loops.items():
                loop.run(4, clock)
                seconds[contender].append(loop.run(tokens, clock))
    return seconds
