"""Text generated until a stop string, in batches by length; finished rows are never counted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from sparsedial.errors import TaskError
from sparsedial.forwards import Telling
from sparsedial.sparsify import Dial
from sparsedial.tasks.base import Progress, no_progress, observe

MAX_ROWS = 64


@dataclass(frozen=True)
class Prompt:
    """What to continue, and for how long.

    Attributes:
        tokens: of the context.
        until: strings, each of which ends the text.
        limit: tokens generated at most.
        options: further arguments of `generate` (``do_sample``, ``temperature``, ...).
    """

    tokens: Sequence[int]
    until: tuple[str, ...]
    limit: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Generated:
    """The tokens generated, the one that ended them included; ``stopped`` is False where the limit was hit."""

    tokens: list[int]
    stopped: bool


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    seed: int = 0,
    batch_tokens: int = 4096,
    dial: Dial | None = None,
    progress: Progress = no_progress,
) -> list[Generated]:
    """Continue every prompt with the model's own `generate`, as it is configured.

    Prompts with the same stop strings, limit and options are batched by length, padded on the left. A row that
    has met a stop string or an end token is over: the dial does not count what the batch computes for it
    afterwards. Sampling, where the options ask for it, starts from ``seed`` in every batch.

    Raises:
        TaskError: `generate` refuses the options, or the logits are NaN.
    """
    answers: list[Generated | None] = [None] * len(prompts)
    done = 0
    for indices in _batches(prompts, batch_tokens):
        batch = [prompts[i] for i in indices]
        for index, answer in zip(indices, _generate(model, tokenizer, batch, seed, dial), strict=True):
            answers[index] = answer
        done += len(batch)
        progress(done, len(prompts))
    return [a for a in answers if a is not None]


def _batches(prompts: Sequence[Prompt], batch_tokens: int) -> list[list[int]]:
    """Indices, batch by batch: alike in all but their tokens, of like length, longest first."""

    def kind(index: int) -> str:
        return repr((prompts[index].until, prompts[index].limit, sorted(prompts[index].options.items())))

    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda i: (kind(i), -len(prompts[i].tokens))):
        if batches:
            first, rows = batches[-1][0], len(batches[-1]) + 1
            room = rows * (len(prompts[first].tokens) + prompts[first].limit) <= batch_tokens
            if kind(first) == kind(index) and room and rows <= MAX_ROWS:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


def _generate(model: Any, tokenizer: Any, batch: Sequence[Prompt], seed: int, dial: Dial | None) -> list[Generated]:
    from transformers import LogitsProcessorList, StoppingCriteriaList

    first = batch[0]
    size, limit = max(len(p.tokens) for p in batch), first.limit
    tokens = torch.zeros(len(batch), size, dtype=torch.int64)
    mask = torch.zeros(len(batch), size, dtype=torch.int64)
    for row, prompt in enumerate(batch):
        tokens[row, size - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
        mask[row, size - len(prompt.tokens) :] = 1
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    tokens[mask == 0] = pad or 0
    rows, bad = _Rows(model, tokenizer, first.until, mask, limit), torch.zeros((), dtype=torch.bool)

    def watch(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        nonlocal bad
        nan = logits.isnan()
        bad = bad.to(logits.device) | nan.any()  # looked at when all is over: nothing waits for it
        return torch.where(nan, 0.0, logits)  # so that sampling gets as far

    def told() -> AbstractContextManager[None]:
        phase, real = rows.real()
        return observe(dial, phase=phase, real=real)

    telling = nullcontext() if dial is None else Telling(model, told)
    with torch.random.fork_rng(enabled=bool(first.options.get("do_sample"))), telling:
        if first.options.get("do_sample"):
            torch.manual_seed(seed)
        try:
            out = model.generate(
                input_ids=tokens.to(model.device),
                attention_mask=mask.to(model.device),
                logits_processor=LogitsProcessorList([watch]),
                stopping_criteria=StoppingCriteriaList([rows]),
                max_new_tokens=limit,
                pad_token_id=pad or 0,
                use_cache=True,
                **first.options,
            )
        except (TypeError, ValueError) as error:
            raise TaskError(f"the model's generate() refuses {first.options}: {error}") from error
    if bad:
        raise TaskError("the model's logits are NaN while it generates: use a wider dtype, or check the weights")
    new = out[:, size:].tolist()
    return [Generated(t[:n], stopped) for t, n, stopped in zip(new, rows.lengths, rows.stopped, strict=True)]


class _Rows:
    """A stopping criterion, which knows which rows are over, and so what the next forward's real tokens are."""

    def __init__(self, model: Any, tokenizer: Any, until: Sequence[str], mask: torch.Tensor, limit: int) -> None:
        eos = getattr(model.generation_config, "eos_token_id", None)
        self.ends = set(eos if isinstance(eos, list) else [] if eos is None else [eos])
        self.until = [s for s in until if s]
        # A stop string may be spelt in other tokens than the tokenizer would choose: two more are looked at.
        self.tail = max((len(tokenizer.encode(s, add_special_tokens=False)) for s in self.until), default=0) + 2
        self.tokenizer, self.mask, self.limit = tokenizer, mask.bool(), limit
        self.stopped = [False] * len(mask)
        self.lengths = [0] * len(mask)

    def real(self) -> tuple[str, torch.Tensor]:
        """Phase and real tokens of the forward that comes next."""
        if not any(self.lengths):
            return "prefill", self.mask
        return "generation", torch.tensor(self.stopped).logical_not()[:, None]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        new = input_ids[:, self.mask.shape[1] :]
        going = [row for row, stopped in enumerate(self.stopped) if not stopped]
        tails = self.tokenizer.batch_decode(new[going, -self.tail :]) if self.until else [""] * len(going)
        last = new[:, -1].tolist()
        for row, tail in zip(going, tails, strict=True):
            self.lengths[row] = new.shape[1]
            self.stopped[row] = last[row] in self.ends or any(s in tail for s in self.until)
        return torch.tensor(self.stopped, device=input_ids.device)
