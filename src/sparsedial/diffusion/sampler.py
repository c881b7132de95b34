"""Sampling from a masked diffusion model: masks filled in step by step, as LLaDA does it (arXiv 2502.09992).

The rows of a batch are of one length, so that nothing is padded: LLaDA's own code takes no attention mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from sparsedial.errors import SpecError, TaskError
from sparsedial.sparsify import Dial

LOW_CONFIDENCE, RANDOM = REMASKING = ("low_confidence", "random")


@dataclass(frozen=True)
class Denoising:
    """How masks are filled in.

    Attributes:
        steps: of denoising, over all blocks; None for one per token.
        block: tokens filled in before the next ones are begun with (semi-autoregressive); None for all at once.
        remasking: which predictions of a step stay masked: those of ``low_confidence`` (all but the most probable)
            or ``random`` ones.
        temperature: of the sampling; 0 takes the arg max.
        guidance: w of classifier-free guidance, logits = un + (w + 1)(logits - un), un without the prompt; 0 for none.

    Raises:
        SpecError: a number that means nothing.

    >>> Denoising(steps=6, block=4).counts(8)
    [[2, 1, 1], [2, 1, 1]]
    """

    steps: int | None = None
    block: int | None = None
    remasking: str = LOW_CONFIDENCE
    temperature: float = 0.0
    guidance: float = 0.0

    def __post_init__(self) -> None:
        problems = [
            f"{name} {value}: expected at least 1"
            for name, value in (("denoising steps", self.steps), ("block length", self.block))
            if value is not None and value < 1
        ]
        problems += [
            f"{name} {value}: expected a number, 0 or more"
            for name, value in (("temperature", self.temperature), ("guidance", self.guidance))
            if not 0 <= value < float("inf")
        ]
        if self.remasking not in REMASKING:
            problems.append(f"remasking {self.remasking!r}: expected {' or '.join(REMASKING)}")
        if problems:
            raise SpecError("; ".join(problems))

    def counts(self, length: int) -> list[list[int]]:
        """Per block, how many tokens each of its steps fills in: as even as can be, the first steps one more.

        Raises:
            SpecError: the block length does not divide ``length``, or the blocks do not divide the steps, or there
                are more steps than tokens.
        """
        block = self.block or length
        if length % block:
            raise SpecError(f"block length {block} does not divide {length} tokens")
        blocks, steps = length // block, self.steps or length
        if steps % blocks:
            raise SpecError(f"{blocks} blocks do not divide {steps} denoising steps")
        each = steps // blocks
        if each > block:
            raise SpecError(f"{steps} denoising steps for {length} tokens: {each} steps for each block of {block}")
        return [[block // each + (i < block % each) for i in range(each)] for _ in range(blocks)]


def seed_of(*parts: object) -> int:
    """A seed that is the same on every machine, from anything that prints the same."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 1


@dataclass(frozen=True)
class Filled:
    """What `fill_in` makes: ``tokens [B, L]``, and ``step [B, L]`` in which each was filled in (-1: given)."""

    tokens: torch.Tensor
    step: torch.Tensor


@torch.inference_mode()
def fill_in(
    model: Any,
    prompts: torch.Tensor,
    length: int,
    mask_token: int,
    how: Denoising,
    seeds: Sequence[int],
    *,
    dial: Dial | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Filled:
    """Append ``length`` masks to every prompt and fill them in.

    In each step every mask of the block is predicted, and the predictions that are kept stay. Sampling is Gumbel's,
    in float64: arg max of logits - T log(-log u); low precision would bias it (arXiv 2409.02908). The draws of a row
    come from its seed alone, on the CPU: the same ones on every device and in every batch. The mask token itself is
    never predicted.

    Args:
        model: called with ``input_ids``, gives ``logits`` for the tokens at their own places.
        prompts: ids ``[B, P]``, all of one length, P may be 0. seeds: of each row.
        dial: told the step, that it is generation, and which tokens are still masked.
        progress: told steps done.

    Raises:
        SpecError: as `Denoising.counts` says.
        TaskError: a logit is NaN.
    """
    counts = how.counts(length)
    start, device = prompts.shape[1], next(model.parameters()).device
    tokens = torch.cat([prompts, prompts.new_full((len(prompts), length), mask_token)], 1).to(device)
    given = torch.arange(start + length, device=device).expand_as(tokens) < start
    masked = ~given
    filled_at = torch.full_like(tokens, -1)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    broken = torch.zeros((), dtype=torch.bool, device=device)
    step = 0
    for index, steps in enumerate(counts):
        first, left = start + index * sum(steps), sum(steps)
        block = slice(first, first + left)
        for count in steps:
            logits = guided(model, tokens, masked, given, mask_token, how.guidance, dial, "generation", step)[:, block]
            if how.remasking == RANDOM:  # which ones stay is known before they are predicted
                lots = _draws(generators, masked[:, block].shape[1:]).to(device)
                places = _first(lots.masked_fill(~masked[:, block], -1.0), count)
            else:
                places = _first(masked[:, block].byte(), left)
            best, sure = _predict(logits, places, mask_token, how.temperature, generators)
            broken |= sure.isnan().any()
            surest = _first(sure, count)
            places, best = places.gather(1, surest), best.gather(1, surest)
            tokens[:, block].scatter_(1, places, best)
            filled_at[:, block].scatter_(1, places, step)
            masked = masked.scatter(1, first + places, False)
            left -= count
            step += 1
            progress(step)
    if broken:
        raise TaskError(
            "the logits are NaN: what was filled in means nothing. Use a wider dtype, or check the weights."
        )
    return Filled(tokens, filled_at)


def of_one_length(lengths: Sequence[int], at_once: int) -> Iterator[list[int]]:
    """Indices, batch by batch: each of one length, the longest first, with at most ``at_once`` tokens or one row.

    >>> list(of_one_length([2, 3, 2, 2], 4))
    [[1], [0, 2], [3]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        full = batch and (len(batch) + 1) * lengths[index] > at_once
        if full or (batch and lengths[batch[0]] != lengths[index]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def guided(
    model: Any,
    tokens: torch.Tensor,
    masked: torch.Tensor,
    given: torch.Tensor,
    mask_token: int,
    guidance: float,
    dial: Dial | None,
    phase: str,
    step: int | None = None,
) -> torch.Tensor:
    """Logits ``[B, T, V]`` of one forward; with ``guidance``, away from those of a forward without what is ``given``.

    Args:
        tokens: ``[B, T]``, masks in place. masked, given: boolean, as wide: what is to be filled in, and the prompt.
        dial: told the phase, the step, and what is masked; all tokens are real.
    """
    if guidance:
        tokens = torch.cat([tokens, tokens.masked_fill(given, mask_token)])
        masked = torch.cat([masked, masked | given])
    with nullcontext() if dial is None else dial.observe(phase=phase, step=step, masked=masked):
        logits: torch.Tensor = model(input_ids=tokens).logits
    if not guidance:
        return logits
    logits, un = logits.chunk(2)
    return un + (guidance + 1) * (logits - un)


def _predict(
    logits: torch.Tensor,
    places: torch.Tensor,
    mask_token: int,
    temperature: float,
    generators: Sequence[torch.Generator],
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each of ``places [B, n]`` a token, and its log-probability at temperature 1, float64."""
    logits = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1])).double()
    logits[..., mask_token] = -torch.inf
    noisy = logits
    if temperature:
        noisy = logits - temperature * _draws(generators, logits.shape[1:]).to(logits.device).log().neg().log()
    best = noisy.argmax(-1)
    return best, logits.gather(-1, best[..., None])[..., 0] - logits.logsumexp(-1)


def _first(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Where the ``count`` largest of each row are, ``[B, count]``; of equal ones the leftmost, on every device."""
    return keys.sort(dim=-1, descending=True, stable=True).indices[:, :count]


def _draws(generators: Sequence[torch.Generator], shape: Sequence[int]) -> torch.Tensor:
    """Uniform in (0, 1), float64, ``[B, *shape]``."""
    tiny = torch.finfo(torch.float64).tiny
    return torch.stack([torch.rand(*shape, generator=g, dtype=torch.float64).clamp_(min=tiny) for g in generators])
