"""Options of lm-eval tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparsedial.errors import SpecError
from sparsedial.inference.denoising_config import LOW_CONFIDENCE, DenoisingConfig
from sparsedial.inference.diffusion_options import DiffusionOptions

FEWSHOT_SEED = 1234
"""Default seed of few-shot examples in lm-eval."""
TOKENS_PER_BATCH_ROW = 512
"""Tokens per forward pass for each unit of the option ``batch``."""


@dataclass(frozen=True)
class LmEvalSettings:
    """Settings with which lm-eval tasks are loaded and run.

    Attributes:
        include_path: Folder with the YAML files of further tasks.
        limit: Examples per task. A task with fewer examples is an error. None means all examples.
        num_fewshot: Few-shot examples per prompt. None means the default of each task. A task that fixes 0 keeps it.
        apply_chat_template: Whether prompts go through the tokenizer's chat template.
        metrics: ``metric`` or ``metric,filter`` by task name, with ``:higher`` or ``:lower`` at its end if the task
            does not say which is better. Other tasks use the metric of the paper.
        seed: Random seed of few-shot examples and of sampling.
        batch_tokens: Maximum number of tokens per forward pass, padding included. None means the default of the device.
        diffusion: How diffusion models answer requests. The default follows LLaDA's evaluation.
    """

    include_path: str | Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    metrics: Mapping[str, str] = field(default_factory=dict)
    seed: int = FEWSHOT_SEED
    batch_tokens: int | None = None
    diffusion: DiffusionOptions = field(default_factory=DiffusionOptions)

    def __post_init__(self) -> None:
        problems = []
        for name, minimum in (("limit", 1), ("num_fewshot", 0), ("batch_tokens", 1)):
            number = getattr(self, name)
            if number is not None and number < minimum:
                problems.append(f"{name}={number}: expected at least {minimum}")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            problems.append(f"include_path {str(self.include_path)!r}: no such folder")
        if problems:
            raise SpecError("\n".join(problems))


@dataclass(frozen=True)
class LmEvalOptions:
    """Options of lm-eval tasks as a study declares them.

    Attributes:
        limit: Examples per task. A task with fewer examples is an error. None means all examples.
        num_fewshot: Few-shot examples per prompt. None means the default of each task. A task that fixes 0 keeps it.
        apply_chat_template: Whether prompts go through the tokenizer's chat template.
        include_path: Folder with the YAML files of further tasks.
        metrics: ``metric`` or ``metric,filter`` by task name, with ``:higher`` or ``:lower`` at its end if the task
            does not say which is better. Other tasks use the metric of the paper.
        seed: Random seed of few-shot examples and of sampling.
        batch: Maximum number of tokens per forward pass, in units of `TOKENS_PER_BATCH_ROW` (512) tokens. None means
            the default of the device.
        diffusion_steps: Denoising steps of generated texts. The default is one per token.
        block_length: Tokens per block of semi-autoregressive denoising. None means that all tokens are one block.
        remasking: ``low_confidence`` or ``random``: which predictions of a denoising step are masked again.
        temperature: Sampling temperature of denoising. 0 takes the arg max.
        guidance: Weight of classifier-free guidance. 0 turns it off.
        mc_samples: Monte Carlo samples per log-likelihood of a masked diffusion model.
        reuse_mask: Number of denoising steps for which kept sets are reused. 1 turns reuse off.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    include_path: str | None = None
    metrics: dict[str, str] | None = None
    seed: int = FEWSHOT_SEED
    batch: int | None = None
    diffusion_steps: int | None = None
    block_length: int | None = None
    remasking: str = LOW_CONFIDENCE
    temperature: float = 0.0
    guidance: float = 0.0
    mc_samples: int = 128
    reuse_mask: int = 1

    def settings(self) -> LmEvalSettings:
        """Convert the options to settings.

        Returns:
            The settings.

        Raises:
            SpecError: A number is out of range, or the folder of further tasks does not exist.
        """
        denoising = DenoisingConfig(
            self.diffusion_steps, self.block_length, self.remasking, self.temperature, self.guidance
        )
        return LmEvalSettings(
            include_path=self.include_path or None,
            limit=self.limit,
            num_fewshot=self.num_fewshot,
            apply_chat_template=self.apply_chat_template,
            metrics=self.metrics or {},
            seed=self.seed,
            batch_tokens=None if self.batch is None else TOKENS_PER_BATCH_ROW * self.batch,
            diffusion=DiffusionOptions(denoising, self.mc_samples, self.reuse_mask),
        )
