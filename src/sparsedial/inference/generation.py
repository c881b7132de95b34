"""Text generation with a causal model's own `generate`, in batches of prompts of similar length."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from sparsedial.errors import NonFiniteOutputError, TaskError
from sparsedial.hooks.forward_tracker import PerForwardContext
from sparsedial.inference.batching import values_in_key_order
from sparsedial.inference.decoding_method import is_sampling, sampling_method
from sparsedial.inference.model_limits import find_padding_token
from sparsedial.inference.nonfinite_outputs import GenerationCheck, describe_nonfinite_logits
from sparsedial.inference.run_context import DEFAULT_RUN, RunContext
from sparsedial.inference.sampling import SampleSeeds, TokenSampler
from sparsedial.models.loading import LanguageModel

MAX_BATCH_ROWS = 64

# A model may generate a stop string as more tokens than the tokenizer uses for it, so a few more tokens are decoded.
EXTRA_STOP_TOKENS = 2


@dataclass(frozen=True)
class Prompt:
    """A text to continue, and the rules for its continuation.

    Attributes:
        tokens: Token IDs of the text.
        until: Stop strings. The first one that is generated ends the continuation.
        limit: Maximum number of generated tokens.
        options: Further arguments of the model's `generate`, such as ``do_sample`` and ``temperature``.
        seed: Random seed of the text if it is sampled. None means that it is derived, see `sample_seeds`.
    """

    tokens: Sequence[int]
    until: tuple[str, ...]
    limit: int
    options: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @property
    def is_sampled(self) -> bool:
        """True if the tokens are drawn at random."""
        return bool(self.options.get("do_sample"))

    @property
    def batch_key(self) -> str:
        """Key that is equal for all prompts that may be continued in one batch."""
        return repr((self.until, self.limit, sorted(self.options.items())))


@dataclass(frozen=True)
class GeneratedTokens:
    """A generated continuation.

    Attributes:
        tokens: Token IDs of the continuation, including the token that ended it.
        stopped: True if a stop string or an end token ended it, False if the length limit was reached.
    """

    tokens: list[int]
    stopped: bool


def sample_seeds(prompts: Sequence[Prompt], seed: int) -> list[int]:
    """Return the random seed of each text.

    Args:
        prompts: Prompts to continue. Several texts may be sampled from equal prompts.
        seed: Seed of the evaluation. It is used for prompts without a seed of their own.

    Returns:
        One seed per prompt, which depends on neither the other prompts nor the batches. See `SampleSeeds`.
    """
    source = SampleSeeds(seed)
    seeds = []
    for prompt in prompts:
        if prompt.seed is None:
            seeds.append(source.next_seed(prompt.tokens))
        else:
            seeds.append(prompt.seed)
    return seeds


@torch.inference_mode()
def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], run: RunContext = DEFAULT_RUN
) -> list[GeneratedTokens]:
    """Continue every prompt with the model's own `generate` and generation configuration.

    Prompts with the same stop strings, limit and options are batched by length and padded on the left. Once a row has
    reached a stop string or an end token, the sparsifier no longer counts the tokens that the batch computes for it.
    If the options enable sampling, every text has random numbers of its own, so the batches do not change the texts.

    Args:
        model: Causal language model.
        tokenizer: Tokenizer of the model.
        prompts: Prompts to continue.
        run: Settings of the evaluation. The progress counts prompts.

    Returns:
        The continuations, in the order of `prompts`.

    Raises:
        TaskError: The options ask for beam search or other decoding methods than greedy decoding and sampling, or
            `generate` rejects them.
        NonFiniteOutputError: A logit is NaN or infinite.
    """
    seeds = sample_seeds(prompts, run.seed)
    texts: dict[int, GeneratedTokens] = {}
    for indices in _batch_prompts(prompts, run.batch_tokens):
        batch = [prompts[index] for index in indices]
        batch_seeds = [seeds[index] for index in indices]
        texts.update(zip(indices, _generate_batch(model, tokenizer, batch, batch_seeds, run), strict=True))
        run.progress(len(texts), len(prompts))
    return values_in_key_order(texts)


def cut_at_end_token(lm: LanguageModel, tokens: list[int], until: Sequence[str]) -> GeneratedTokens:
    """Cut generated tokens after the first end token, for models that always generate the maximum length.

    Args:
        lm: Model and tokenizer, which define the end tokens.
        tokens: Generated token IDs.
        until: Stop strings. They do not cut the text, but mark it as stopped.

    Returns:
        The tokens up to and including the first end token, or all of them if there is none.
    """
    end_tokens = _end_token_ids(lm.model.config.get_text_config())
    end_tokens.add(getattr(lm.tokenizer, "eos_token_id", None))
    for length, token in enumerate(tokens, start=1):
        if token in end_tokens:
            return GeneratedTokens(tokens[:length], stopped=True)
    return GeneratedTokens(tokens, stopped=_contains_any(lm.tokenizer.decode(tokens), filter(None, until)))


def _contains_any(text: str, strings: Iterable[str]) -> bool:
    return any(string in text for string in strings)


def _end_token_ids(config: Any) -> set[int | None]:
    """Return the set of end tokens in a configuration. It may be empty."""
    end_tokens = getattr(config, "eos_token_id", None)
    if isinstance(end_tokens, list):
        return set(end_tokens)
    return set() if end_tokens is None else {end_tokens}


def _batch_prompts(prompts: Sequence[Prompt], batch_tokens: int) -> list[list[int]]:
    """Return the indices of each batch: prompts with equal keys and of similar length, longest first."""
    keys = [prompt.batch_key for prompt in prompts]
    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda index: (keys[index], -len(prompts[index].tokens))):
        if batches and keys[batches[-1][0]] == keys[index]:
            longest = prompts[batches[-1][0]]
            rows = len(batches[-1]) + 1
            fits = rows * (len(longest.tokens) + longest.limit) <= batch_tokens
            if fits and rows <= MAX_BATCH_ROWS:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


def _generate_batch(
    model: Any, tokenizer: Any, batch: Sequence[Prompt], seeds: Sequence[int], run: RunContext
) -> list[GeneratedTokens]:
    """Continue prompts that have equal batch keys."""
    texts, is_finite = _continue_batch(model, tokenizer, batch, seeds, run)
    for prompt, seed, text, steps in zip(batch, seeds, texts, is_finite.unbind(1), strict=True):
        if not steps[: len(text.tokens)].all():  # later steps are not part of the text
            repeat = partial(_continue_batch, model, tokenizer, [prompt], [seed], run)
            raise NonFiniteOutputError(describe_nonfinite_logits(model, repeat))
    return texts


def _continue_batch(
    model: Any, tokenizer: Any, batch: Sequence[Prompt], seeds: Sequence[int], run: RunContext
) -> tuple[list[GeneratedTokens], torch.Tensor]:
    """Return the texts, and whether the logits are finite, boolean of shape [steps, batch]."""
    from transformers import LogitsProcessorList, StoppingCriteriaList

    first = batch[0]
    decoding = {}
    if is_sampling(model.generation_config, first.options):
        decoding = {"custom_generate": sampling_method(TokenSampler(seeds))}
    padding_token = find_padding_token(model, tokenizer.pad_token_id, tokenizer.eos_token_id)
    tokens, attention_mask = _pad_prompts(batch, padding_token)
    stopping_criterion = _RowStoppingCriterion(model, tokenizer, first.until, attention_mask)
    check = GenerationCheck()

    def describe_forward() -> AbstractContextManager[None]:
        return run.observe(phase=stopping_criterion.phase, real=stopping_criterion.real_tokens())

    per_forward = nullcontext() if run.sparsifier is None else PerForwardContext(model, describe_forward)
    with per_forward:
        try:
            output = model.generate(
                input_ids=tokens.to(model.device),
                attention_mask=attention_mask.to(model.device),
                logits_processor=LogitsProcessorList([check]),
                stopping_criteria=StoppingCriteriaList([stopping_criterion]),
                max_new_tokens=first.limit,
                pad_token_id=padding_token,
                use_cache=True,
                **decoding,
                **first.options,
            )
        except (TypeError, ValueError) as error:
            raise TaskError(f"the model's generate() rejects the options {first.options}: {error}") from error
    return stopping_criterion.texts(output), check.is_finite()


def _pad_prompts(batch: Sequence[Prompt], padding_token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token IDs, padded on the left, and attention mask, both int64 of shape [batch, longest prompt]."""
    longest = max(len(prompt.tokens) for prompt in batch)
    tokens = torch.full((len(batch), longest), padding_token, dtype=torch.int64)
    attention_mask = torch.zeros(len(batch), longest, dtype=torch.int64)
    for row, prompt in enumerate(batch):
        start = longest - len(prompt.tokens)
        tokens[row, start:] = torch.tensor(prompt.tokens)
        attention_mask[row, start:] = 1
    return tokens, attention_mask


class _RowStoppingCriterion:
    """Stopping criterion that records for each row whether it has ended, and after how many tokens.

    Args:
        model: Causal language model, which defines the end tokens.
        tokenizer: Tokenizer of the model.
        until: Stop strings.
        attention_mask: Attention mask of the prompts, int64 of shape [batch, tokens].

    Attributes:
        stopped: Per row, True once a stop string or an end token has ended it.
        lengths: Per row, the number of tokens generated until it ended.
    """

    def __init__(self, model: Any, tokenizer: Any, until: Sequence[str], attention_mask: torch.Tensor) -> None:
        self.stopped = [False] * len(attention_mask)
        self.lengths = [0] * len(attention_mask)
        self._tokenizer = tokenizer
        self._prompt_mask = attention_mask.bool()
        self._end_tokens = _end_token_ids(model.generation_config)
        self._stop_strings = list(filter(None, until))
        stop_lengths = [len(tokenizer.encode(stop, add_special_tokens=False)) for stop in self._stop_strings]
        self._tail_length = max(stop_lengths, default=0) + EXTRA_STOP_TOKENS

    @property
    def phase(self) -> str:
        """Phase of the next forward pass."""
        return "generation" if any(self.lengths) else "prefill"

    def real_tokens(self) -> torch.Tensor:
        """Return the boolean mask of the next forward pass's real tokens, shape [batch, tokens]."""
        if self.phase == "prefill":
            return self._prompt_mask
        return torch.tensor(self.stopped).logical_not()[:, None]

    def texts(self, output: torch.Tensor) -> list[GeneratedTokens]:
        """Return the continuations, cut where each row ended.

        Args:
            output: Token IDs of prompts and continuations, shape [batch, tokens].

        Returns:
            One text per row.
        """
        rows = output[:, self._prompt_mask.shape[1] :].tolist()
        return [
            GeneratedTokens(tokens[:length], stopped)
            for tokens, length, stopped in zip(rows, self.lengths, self.stopped, strict=True)
        ]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        generated = input_ids[:, self._prompt_mask.shape[1] :]
        active_rows = [row for row, stopped in enumerate(self.stopped) if not stopped]
        tails = [""] * len(active_rows)
        if self._stop_strings:
            tails = self._tokenizer.batch_decode(generated[active_rows, -self._tail_length :])
        last_tokens = generated[:, -1].tolist()
        for row, tail in zip(active_rows, tails, strict=True):
            self.lengths[row] = generated.shape[1]
            is_at_end = last_tokens[row] in self._end_tokens
            self.stopped[row] = is_at_end or _contains_any(tail, self._stop_strings)
        return torch.tensor(self.stopped, device=input_ids.device)
