"""Prompts that a model continues, and the texts that it generates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsedial.inference.sampling import SampleSeeds
from sparsedial.models.loading import LanguageModel


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
    def max_length(self) -> int:
        """Maximum number of tokens of the text and its continuation."""
        return len(self.tokens) + self.limit

    @property
    def decoding_key(self) -> str:
        """Key that is equal for all prompts with the same stop strings and the same choice of tokens."""
        return repr((self.until, sorted(self.options.items())))


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


def cut_at_end_token(lm: LanguageModel, tokens: list[int], until: Sequence[str]) -> GeneratedTokens:
    """Cut generated tokens after the first end token, for models that always generate the maximum length.

    Args:
        lm: Model and tokenizer, which define the end tokens.
        tokens: Generated token IDs.
        until: Stop strings. They do not cut the text, but mark it as stopped.

    Returns:
        The tokens up to and including the first end token, or all of them if there is none.
    """
    end_tokens = end_token_ids(lm.model.config.get_text_config())
    end_tokens.add(getattr(lm.tokenizer, "eos_token_id", None))
    for length, token in enumerate(tokens, start=1):
        if token in end_tokens:
            return GeneratedTokens(tokens[:length], stopped=True)
    return GeneratedTokens(tokens, stopped=contains_any(lm.tokenizer.decode(tokens), filter(None, until)))


def contains_any(text: str, strings: Iterable[str]) -> bool:
    """Return True if a text contains at least one of the strings.

    Args:
        text: The text.
        strings: Strings to look for.
    """
    return any(string in text for string in strings)


def end_token_ids(config: Any) -> set[int | None]:
    """Return the end tokens in a configuration.

    Args:
        config: Configuration of a model or of its generation.

    Returns:
        Their IDs. The set may be empty.
    """
    end_tokens = getattr(config, "eos_token_id", None)
    if isinstance(end_tokens, list):
        return set(end_tokens)
    return set() if end_tokens is None else {end_tokens}
