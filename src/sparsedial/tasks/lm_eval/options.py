"""Options of lm-eval tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sparsedial.errors import SpecError
from sparsedial.inference.denoising_config import LOW_CONFIDENCE, DenoisingConfig
from sparsedial.inference.diffusion_options import DiffusionOptions
from sparsedial.inference.thinking_markers import MarkerChoice, parse_markers
from sparsedial.tasks.chat_template import parse_choice
from sparsedial.tasks.lm_eval.generation_options import DEFAULT_GENERATION_OPTIONS, GenerationOptions

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
        apply_chat_template: Whether prompts go through the tokenizer's chat template. None means that they do if it has
            one.
        metrics: ``metric`` or ``metric,filter`` by task name, with ``:higher`` or ``:lower`` at its end if the task
            does not say which is better. Other tasks use the metric of the paper.
        seed: Random seed of few-shot examples and of sampling.
        batch_tokens: Maximum number of tokens per forward pass, padding included. None means the default of the device.
        diffusion: How diffusion models answer requests. The default follows LLaDA's evaluation.
        generation: Options of generated texts that replace those of the tasks.
        thinking_markers: Markers that divide generated texts into thinking and answer. Empty if texts are not divided,
            None if the markers are detected. They do not change a score.
        confirm_run_unsafe_code: Whether tasks may run the code that the model writes. It does not change a score.
    """

    include_path: str | Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool | None = False
    metrics: Mapping[str, str] = field(default_factory=dict)
    seed: int = FEWSHOT_SEED
    batch_tokens: int | None = None
    diffusion: DiffusionOptions = field(default_factory=DiffusionOptions)
    generation: GenerationOptions = DEFAULT_GENERATION_OPTIONS
    thinking_markers: MarkerChoice = None
    confirm_run_unsafe_code: bool = False

    def __post_init__(self) -> None:
        problems = []
        for name, minimum in (("limit", 1), ("num_fewshot", 0), ("batch_tokens", 1)):
            number = getattr(self, name)
            if number is not None and number < minimum:
                problems.append(f"{name}={number}: expected at least {minimum}")
        if self.include_path is not None and (not str(self.include_path) or not Path(self.include_path).is_dir()):
            problems.append(f"include_path {str(self.include_path)!r}: no such folder")
        if problems:
            raise SpecError("\n".join(problems))


@dataclass(frozen=True)
class LmEvalOptions:
    """Options of lm-eval tasks as a study declares them.

    Attributes:
        limit: Examples per task. A task with fewer examples is an error. None means all examples.
        num_fewshot: Few-shot examples per prompt. None means the default of each task. A task that fixes 0 keeps it.
        apply_chat_template: Whether prompts go through the tokenizer's chat template: true or ``on``, false or ``off``,
            or ``auto``, which means that they do if it has one.
        include_path: Folder with the YAML files of further tasks.
        metrics: ``metric`` or ``metric,filter`` by task name, with ``:higher`` or ``:lower`` at its end if the task
            does not say which is better. Other tasks use the metric of the paper.
        seed: Random seed of few-shot examples and of sampling.
        batch: Maximum number of tokens per forward pass, in units of `TOKENS_PER_BATCH_ROW` (512) tokens. None means
            the default of the device.
        max_gen_toks: Maximum number of generated tokens per text. None means that of each task.
        do_sample: Whether causal models draw tokens at random. False means that each task decides.
        diffusion_steps: Denoising steps of generated texts. The default is one per token.
        block_length: Tokens per block of semi-autoregressive denoising. None means that all tokens are one block.
        remasking: ``low_confidence`` or ``random``: which predictions of a denoising step are masked again.
        temperature: Sampling temperature of denoising, where 0 takes the arg max, and of causal models with
            ``do_sample``, where 0 means that of the model's generation configuration.
        guidance: Weight of classifier-free guidance. 0 turns it off.
        mc_samples: Monte Carlo samples per log-likelihood of a masked diffusion model.
        reuse_mask: Number of denoising steps for which kept sets are reused. 1 turns reuse off.
        thinking_markers: Texts around the thoughts of a model: ``START,END`` or a list of the two, ``auto`` to detect
            them, or ``none``. None means ``auto``.
        confirm_run_unsafe_code: Whether tasks such as humaneval may run the code that the model writes on this machine.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool | Literal["auto", "on", "off"] = False
    include_path: str | None = None
    metrics: dict[str, str] | None = None
    seed: int = FEWSHOT_SEED
    batch: int | None = None
    max_gen_toks: int | None = None
    do_sample: bool = False
    diffusion_steps: int | None = None
    block_length: int | None = None
    remasking: str = LOW_CONFIDENCE
    temperature: float = 0.0
    guidance: float = 0.0
    mc_samples: int = 128
    reuse_mask: int = 1
    thinking_markers: str | list[str] | None = None
    confirm_run_unsafe_code: bool = False

    def settings(self) -> LmEvalSettings:
        """Convert the options to settings.

        Returns:
            The settings.

        Raises:
            SpecError: A number is out of range, the folder of further tasks does not exist, or there are not two
                different markers.
        """
        denoising = DenoisingConfig(
            self.diffusion_steps, self.block_length, self.remasking, self.temperature, self.guidance
        )
        return LmEvalSettings(
            include_path=self.include_path or None,
            limit=self.limit,
            num_fewshot=self.num_fewshot,
            apply_chat_template=parse_choice(self.apply_chat_template),
            metrics=self.metrics or {},
            seed=self.seed,
            batch_tokens=None if self.batch is None else TOKENS_PER_BATCH_ROW * self.batch,
            generation=GenerationOptions(self.max_gen_toks, self.do_sample, self.temperature),
            diffusion=DiffusionOptions(denoising, self.mc_samples, self.reuse_mask),
            thinking_markers=parse_markers(self.thinking_markers),
            confirm_run_unsafe_code=self.confirm_run_unsafe_code,
        )
