"""Settings of the denoising process with which a masked diffusion model generates text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsedial.errors import SpecError

LOW_CONFIDENCE = "low_confidence"
RANDOM = "random"
REMASKING = (LOW_CONFIDENCE, RANDOM)


@dataclass(frozen=True)
class DenoisingConfig:
    """Settings of the denoising process.

    Attributes:
        steps: Number of denoising steps, over all blocks. None means one step per token.
        block_length: Number of tokens per block. All tokens of a block are filled in before the next block is started
            (semi-autoregressive generation). None means that all tokens form one block.
        remasking: Which predictions of a step are kept: ``low_confidence`` keeps the most probable ones, ``random``
            keeps random ones. All others are masked again.
        temperature: Sampling temperature. 0 selects the most probable token.
        guidance: Weight w of classifier-free guidance, logits = u + (w + 1)(c - u), where c are the logits with the
            prompt and u those without it. 0 disables guidance.

    Raises:
        SpecError: A value is out of range.

    >>> DenoisingConfig(steps=6, block_length=4).schedule(8)
    [[2, 1, 1], [2, 1, 1]]
    """

    steps: int | None = None
    block_length: int | None = None
    remasking: str = LOW_CONFIDENCE
    temperature: float = 0.0
    guidance: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        for name, count in (("denoising steps", self.steps), ("block length", self.block_length)):
            if count is not None and count < 1:
                problems.append(f"{name} {count}: expected at least 1")
        for name, weight in (("temperature", self.temperature), ("guidance", self.guidance)):
            if not 0 <= weight < float("inf"):
                problems.append(f"{name} {weight}: expected a number, 0 or more")
        if self.remasking not in REMASKING:
            problems.append(f"remasking {self.remasking!r}: expected {' or '.join(REMASKING)}")
        if problems:
            raise SpecError("; ".join(problems))

    @property
    def rows_per_sequence(self) -> int:
        """Number of rows that one sequence needs in a forward pass: two with guidance."""
        return 2 if self.guidance else 1

    def schedule(self, length: int) -> list[list[int]]:
        """Return how many tokens each step of each block fills in.

        The numbers are as even as possible. The first steps of a block fill in one token more than the others.

        Args:
            length: Number of tokens to fill in.

        Returns:
            One list per block, with one number per step.

        Raises:
            SpecError: The block length does not divide `length`, the number of blocks does not divide the number of
                steps, or there are more steps than tokens.
        """
        block_length = self.block_length or length
        if length % block_length:
            raise SpecError(f"block length {block_length} does not divide {length} tokens: expected a divisor")
        blocks = length // block_length
        steps = self.steps or length
        if steps % blocks:
            raise SpecError(f"{blocks} blocks do not divide {steps} denoising steps: expected a multiple of {blocks}")
        block_steps = steps // blocks
        if block_steps > block_length:
            raise SpecError(
                f"{steps} denoising steps for {length} tokens: {block_steps} steps for each block of {block_length}, "
                "expected at most one step per token"
            )
        quotient, remainder = divmod(block_length, block_steps)
        block_schedule = [quotient + 1] * remainder + [quotient] * (block_steps - remainder)
        return [list(block_schedule) for _ in range(blocks)]

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dictionary for JSON. The keys are part of the identities of stored trials."""
        return {
            "steps": self.steps,
            "block": self.block_length,
            "remasking": self.remasking,
            "temperature": self.temperature,
            "guidance": self.guidance,
        }
