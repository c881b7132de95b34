"""Text generation with a causal model's own `generate`, in batches of prompts of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from sparsedial.errors import NonFiniteOutputError, TaskError
from sparsedial.hooks.forward_context import Thinking
from sparsedial.hooks.forward_tracker import PerForwardContext
from sparsedial.inference.batch_independence import BatchIndependence, check_batch_independence
from sparsedial.inference.decoding_method import sampling_method
from sparsedial.inference.generation import GeneratedTokens, Prompt
from sparsedial.inference.generation_job import GenerationJob
from sparsedial.inference.model_limits import find_padding_token
from sparsedial.inference.nonfinite_outputs import GenerationCheck, describe_nonfinite_logits
from sparsedial.inference.sampling import TokenSampler
from sparsedial.inference.stop_detection import StopDetector
from sparsedial.inference.thinking_segments import SegmentReader
from sparsedial.inference.token_choice import describe_rejection

MAX_BATCH_ROWS = 64


def generate_in_batches(
    job: GenerationJob, prompts: Sequence[Prompt], seeds: Sequence[int]
) -> dict[int, GeneratedTokens]:
    """Continue prompts that have equal decoding keys with the model's own `generate`.

    Prompts with the same limit are batched by length and padded on the left. If the rows of a batch change each other
    in a model, only prompts of equal length are batched, or none (`batch_independence`). Once a row has reached a
    stop string or an end token, the sparsifier no longer counts the tokens that the batch computes for it.

    Args:
        job: Model and settings.
        prompts: Prompts to continue.
        seeds: Random seed of each text.

    Returns:
        The continuation of each prompt, by its index.

    Raises:
        TaskError: `generate` rejects the options.
        NonFiniteOutputError: A logit is NaN or infinite.
    """
    texts: dict[int, GeneratedTokens] = {}
    independence = BatchIndependence(of_equal_lengths=True, of_any_lengths=True)
    if len(prompts) > 1:
        independence = check_batch_independence(job.model)
    for indices in _batch_prompts(prompts, job.run.batch_tokens, independence):
        batch = [prompts[index] for index in indices]
        batch_seeds = [seeds[index] for index in indices]
        generated = _generate_batch(job, batch, batch_seeds)
        texts.update(zip(indices, generated, strict=True))
        job.progress.add_tokens(sum(len(text.tokens) for text in generated))
        job.progress.finish_texts(len(generated))
    return texts


def _batch_prompts(prompts: Sequence[Prompt], batch_tokens: int, independence: BatchIndependence) -> list[list[int]]:
    """Return the indices of each batch: prompts with equal limits and of similar length, longest first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda index: (prompts[index].limit, -len(prompts[index].tokens))):
        if batches and prompts[batches[-1][0]].limit == prompts[index].limit:
            longest = prompts[batches[-1][0]]
            rows = len(batches[-1]) + 1
            fits = rows * longest.max_length <= batch_tokens and rows <= MAX_BATCH_ROWS
            is_independent = independence.of_any_lengths
            if len(prompts[index].tokens) == len(longest.tokens):
                is_independent = independence.of_equal_lengths
            if fits and is_independent:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


def _generate_batch(job: GenerationJob, batch: Sequence[Prompt], seeds: Sequence[int]) -> list[GeneratedTokens]:
    """Continue prompts that have equal batch keys."""
    texts, is_finite = continue_batch(job, batch, seeds)
    for prompt, seed, text, steps in zip(batch, seeds, texts, is_finite.unbind(1), strict=True):
        if not steps[: len(text.tokens)].all():  # later steps are not part of the text
            repeat = partial(continue_batch, job, [prompt], [seed])
            raise NonFiniteOutputError(describe_nonfinite_logits(job.model, repeat))
    return texts


def continue_batch(
    job: GenerationJob, batch: Sequence[Prompt], seeds: Sequence[int]
) -> tuple[list[GeneratedTokens], torch.Tensor]:
    """Continue the prompts of one batch.

    Args:
        job: Model and settings.
        batch: Prompts with equal decoding keys and limits.
        seeds: Random seed of each text.

    Returns:
        The texts, and whether the logits are finite, boolean of shape [steps, batch].

    Raises:
        TaskError: `generate` rejects the options.
    """
    from transformers import LogitsProcessorList, StoppingCriteriaList

    model = job.model
    first = batch[0]
    decoding = {}
    if job.settings.is_sampled:
        decoding = {"custom_generate": sampling_method(TokenSampler(seeds))}
    padding_token = find_padding_token(model, job.tokenizer.pad_token_id, job.tokenizer.eos_token_id)
    tokens, attention_mask = _pad_prompts(batch, padding_token)
    readers = [job.run.read_segments(prompt.tokens) for prompt in batch]
    stopping_criterion = _RowStoppingCriterion(model, job.tokenizer, first.until, attention_mask, readers)
    check = GenerationCheck()

    def describe_forward() -> AbstractContextManager[None]:
        return job.run.observe(
            phase=stopping_criterion.phase,
            real=stopping_criterion.real_tokens(),
            thinking=stopping_criterion.thinking_tokens(),
        )

    per_forward: AbstractContextManager[object] = nullcontext()
    if job.run.sparsifier is not None:
        per_forward = PerForwardContext(model, describe_forward)
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
            raise TaskError(describe_rejection(first.options, error)) from error
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
        readers: Reader of the segments of each row. None if they are not counted.

    Attributes:
        stopped: Per row, True once a stop string or an end token has ended it.
        lengths: Per row, the number of tokens generated until it ended.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        until: Sequence[str],
        attention_mask: torch.Tensor,
        readers: Sequence[SegmentReader | None],
    ) -> None:
        self._readers = readers
        self._is_thinking = [False] * len(attention_mask)
        self.stopped = [False] * len(attention_mask)
        self.lengths = [0] * len(attention_mask)
        self._prompt_mask = attention_mask.bool()
        self._stops = StopDetector(model, tokenizer, until)

    @property
    def phase(self) -> str:
        """Phase of the next forward pass."""
        return "generation" if any(self.lengths) else "prefill"

    def real_tokens(self) -> torch.Tensor:
        """Return the boolean mask of the next forward pass's real tokens, shape [batch, tokens]."""
        if self.phase == "prefill":
            return self._prompt_mask
        return torch.tensor(self.stopped).logical_not()[:, None]

    def thinking_tokens(self) -> Thinking | None:
        """Return whether the next token of each row belongs to the thinking, as `RunContext.observe` takes it."""
        if self.phase == "prefill" or None in self._readers:
            return None
        flags = [flag for flag, stopped in zip(self._is_thinking, self.stopped, strict=True) if not stopped]
        if len(set(flags)) == 1:
            return flags[0]
        return torch.tensor(self._is_thinking)[:, None]

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
        texts = generated[active_rows].tolist()
        for row, tokens, has_stopped in zip(active_rows, texts, self._stops.find_ended(texts), strict=True):
            self.lengths[row] = generated.shape[1]
            self.stopped[row] = has_stopped
            reader = self._readers[row]
            if reader is not None:
                self._is_thinking[row] = reader.append(tokens[-1])
        return torch.tensor(self.stopped, device=input_ids.device)
