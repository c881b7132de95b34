"""The models that `benchmarks.bench_decode` compares, and the times of their tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

import sparsedial as sd
from sparsedial.acceleration.compiled_decoding import DecodingPatch

SITE = "all_inputs"


class FirstToken(StoppingCriteria):
    """Record when `generate` has the first new token, and stop nothing."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_kwargs: Any) -> torch.Tensor:
        """Record the time at the first call."""
        if self.seconds is None:
            self.seconds = self._clock()
        return torch.zeros(len(input_ids), dtype=torch.bool)


@dataclass(frozen=True)
class TokenTime:
    """Seconds per generated token.

    Attributes:
        with_prompt: The time of all tokens, divided by their number.
        step: The time of all tokens but the first, divided by their number.
    """

    with_prompt: float
    step: float


@dataclass(frozen=True)
class Contender:
    """What generates: the stock model if p is None, otherwise an accelerated one.

    Attributes:
        p: The p of top-p, or None.
        when_slower: What a step computes that the kernels do not make faster.
        compiled: True for a static cache and compiled decode steps.
    """

    p: float | None
    when_slower: Literal["mask", "dense"] = "mask"
    compiled: bool = False

    @contextmanager
    def attach(self, model: Any) -> Iterator[Any]:
        """Provide the model."""
        if self.p is None:
            patch = DecodingPatch(model) if self.compiled else None
            yield model
            if patch is not None:
                patch.remove()
            return
        with sd.accelerate(model, SITE, sd.TopP(self.p), when_slower=self.when_slower) as fast:
            if self.compiled:
                fast.compile_decoding()
            yield fast

    def generate(self, model: Any, input_ids: torch.Tensor, tokens: int, *criteria: StoppingCriteria) -> None:
        """Generate a fixed number of tokens, greedily, with the model that `attach` provides.

        No token has the number of the one that ends a text. ``min_new_tokens`` would have the same effect, but compares
        the whole vocabulary in each step.
        """
        config = copy.deepcopy(model.generation_config)
        config.update(
            eos_token_id=model.config.vocab_size,
            pad_token_id=0,
            do_sample=False,
            max_new_tokens=tokens,
            cache_implementation="static" if self.compiled else None,
        )
        generated = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList(criteria),
        )
        if generated.shape[1] != input_ids.shape[1] + tokens:
            raise RuntimeError(f"{generated.shape[1] - input_ids.shape[1]} tokens were generated, not {tokens}")

    def time(self, model: Any, input_ids: torch.Tensor, tokens: int, clock: Callable[[], float]) -> TokenTime:
        """Return the seconds per generated token, after a few tokens that are not timed."""
        self.generate(model, input_ids, 4)
        first = FirstToken(clock)
        start = clock()
        self.generate(model, input_ids, tokens, first)
        end = clock()
        if first.seconds is None:
            raise RuntimeError("generate did not call its stopping criterion")
        return TokenTime((end - start) / tokens, (end - first.seconds) / (tokens - 1))


STOCK = Contender(None)
OWN_DENSE = Contender(1.0, "dense")  # the kernels without the rule
OWN_P1 = Contender(1.0)
DENSE = (STOCK, OWN_DENSE, OWN_P1)
