"""Random choice of tokens, in which every sequence has random numbers of its own.

The random numbers of a sequence depend on its seed and on the position of the drawn token only. Hence the same sequence
is drawn in a batch of any size, in any order, and together with any other sequences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from sparsedial.inference.seeds import derive_seed

NUMBERS_PER_BLOCK = 64
"""Random numbers that are computed at once for each sequence."""
RANDOM_BITS = 52
"""Bits of a random number: one less than a float64 can hold, so that a product with a random number is smaller."""


class SampleSeeds:
    """Source of one seed per sampled text.

    The seed of a text depends on the seed of the evaluation, the prompt, and how many texts were sampled from the same
    prompt before. It does not depend on the other prompts.

    Args:
        seed: Seed of the evaluation.

    Example:
        >>> first, second = SampleSeeds(0), SampleSeeds(0)
        >>> seeds = [first.next_seed([1, 2]), first.next_seed([1, 2]), first.next_seed([3])]
        >>> seeds == [second.next_seed([1, 2]), second.next_seed([1, 2]), second.next_seed([3])]
        True
        >>> len(set(seeds))
        3
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts: Counter[tuple[int, ...]] = Counter()

    def next_seed(self, prompt: Sequence[int]) -> int:
        """Return the seed of the next text that is sampled from a prompt.

        Args:
            prompt: Token IDs of the prompt.
        """
        key = tuple(prompt)
        self._counts[key] += 1
        return derive_seed(self._seed, list(key), self._counts[key])


class RandomNumbers:
    """Random numbers of one sequence, one per token.

    Args:
        seed: Seed of the sequence.

    Example:
        >>> numbers = RandomNumbers(3)
        >>> 0 <= numbers.next_number() < 1
        True
        >>> numbers.next_number() == RandomNumbers(3).next_number()
        False
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Philox(key=seed)
        self._block: list[float] = []

    def next_number(self) -> float:
        """Return the next random number, in [0, 1)."""
        if not self._block:
            bits = self._generator.random_raw(NUMBERS_PER_BLOCK) >> (64 - RANDOM_BITS)
            self._block = (bits / 2.0**RANDOM_BITS)[::-1].tolist()
        return self._block.pop()


class TokenSampler:
    """Sampler of one token per sequence and step.

    Args:
        seeds: Seed of each sequence.

    Example:
        >>> logits = torch.zeros(2, 50)
        >>> both, second = TokenSampler([3, 4]), TokenSampler([4])
        >>> [int(both.draw(logits)[1]) for _ in range(4)] == [int(second.draw(logits[:1])) for _ in range(4)]
        True
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._numbers = [RandomNumbers(seed) for seed in seeds]

    def draw(self, logits: torch.Tensor) -> torch.Tensor:
        """Draw the next token of every sequence.

        Args:
            logits: Logits, shape [sequences, vocabulary]. Tokens with the logit minus infinity are never drawn.

        Returns:
            Token IDs, int64 of shape [sequences], on the device of the logits.
        """
        return draw_tokens(logits, [numbers.next_number() for numbers in self._numbers])


def draw_tokens(logits: torch.Tensor, numbers: Sequence[float]) -> torch.Tensor:
    """Draw one token per sequence, by inversion of the cumulative distribution.

    Args:
        logits: Logits, shape [sequences, vocabulary]. Tokens with the logit minus infinity are never drawn.
        numbers: Random number of each sequence, in [0, 1).

    Returns:
        Token IDs, int64 of shape [sequences], on the device of the logits.
    """
    probabilities = logits.float().softmax(-1)
    if probabilities.device.type == "mps":  # it has no float64
        probabilities = probabilities.cpu()
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # so that rounding moves no boundary between tokens
    thresholds = torch.tensor(numbers, dtype=torch.float64).to(cumulative.device)
    tokens = torch.searchsorted(cumulative, thresholds[:, None] * cumulative[:, -1:], right=True)
    return tokens[:, 0].to(logits.device)
