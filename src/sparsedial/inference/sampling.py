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


class TokenSampler:
    """Sampler of one token per sequence and step, by inversion of the cumulative distribution.

    Args:
        seeds: Seed of each sequence.

    Example:
        >>> logits = torch.zeros(2, 50)
        >>> both, second = TokenSampler([3, 4]), TokenSampler([4])
        >>> [int(both.draw(logits)[1]) for _ in range(4)] == [int(second.draw(logits[:1])) for _ in range(4)]
        True
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [np.random.Philox(key=seed) for seed in seeds]
        self._block = np.empty((len(seeds), 0))
        self._step = 0

    def draw(self, logits: torch.Tensor) -> torch.Tensor:
        """Draw the next token of every sequence.

        Args:
            logits: Logits, shape [sequences, vocabulary]. Tokens with the logit minus infinity are never drawn.

        Returns:
            Token IDs, int64 of shape [sequences], on the device of the logits.
        """
        probabilities = logits.float().softmax(-1)
        if probabilities.device.type == "mps":  # it has no float64
            probabilities = probabilities.cpu()
        cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # so that rounding moves no boundary between tokens
        numbers = torch.from_numpy(self._next_numbers()).to(cumulative.device)
        tokens = torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:], right=True)
        return tokens[:, 0].to(logits.device)

    def _next_numbers(self) -> np.ndarray:
        """Return one random number per sequence in [0, 1), float64 of shape [sequences]."""
        column = self._step % NUMBERS_PER_BLOCK
        if column == 0:
            shift = 64 - RANDOM_BITS
            blocks = [generator.random_raw(NUMBERS_PER_BLOCK) >> shift for generator in self._generators]
            self._block = np.stack(blocks) / 2.0**RANDOM_BITS
        self._step += 1
        return np.ascontiguousarray(self._block[:, column])
