"""Tasks: what "performance" means. `self_prediction` needs no data, `next_token` any text; the rest is lm-eval's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sparsedial.diffusion.sampler import LOW_CONFIDENCE, RANDOM, Denoising
from sparsedial.errors import SpecError
from sparsedial.tasks.base import Scores, Task
from sparsedial.tasks.denoised import DiffusionAnswers
from sparsedial.tasks.denoising import DenoisingReplay
from sparsedial.tasks.next_token import NextToken
from sparsedial.tasks.restoration import MaskedToken, Restoration
from sparsedial.tasks.self_prediction import SelfPrediction

__all__ = [
    "DenoisingReplay",
    "MaskedToken",
    "Restoration",
    "NextToken",
    "Scores",
    "SelfPrediction",
    "Task",
    "TaskOptions",
    "make_tasks",
]

DATA_FREE = tuple(task.name for task in (SelfPrediction, Restoration, DenoisingReplay))
"""Tasks whose examples come from the model itself: none of the paper's, so they stay out of the task average."""
OURS = tuple(task.name for task in (SelfPrediction, NextToken, Restoration, MaskedToken, DenoisingReplay))


@dataclass(frozen=True)
class TaskOptions:
    """What tasks take beside their names.

    Attributes:
        sequences, length: self-prediction's N and L; next_token's documents have that length too.
        seed: of everything that is drawn; by default 0, and in lm-eval's tasks lm-eval's own.
        batch: sequences in a forward (self_prediction, next_token), or so many times 512 tokens (lm-eval tasks).
        limit: examples of each lm-eval task, documents of next_token, None for all.
        text: next_token's file, None for the zoo's held-out documents.
        num_fewshot, apply_chat_template, include_path, metrics: as lm-eval means them; metrics by task.
        diffusion_steps, block_length, remasking, temperature, guidance: of `Denoising`, for what a masked diffusion
            model generates. By default texts are LLaDA's (low_confidence, the arg max), and what the task denoising
            goes through again is a sample of the model's own process (random, temperature 1).
        mc_samples: of a log-likelihood of such a model. fraction: of the tokens that restoration and masked_token mask.
        reuse_mask: choose kept sets anew only every so many denoising steps.
    """

    sequences: int = 64
    length: int = 96
    seed: int | None = None
    batch: int = 8
    limit: int | None = None
    text: str | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    include_path: str | None = None
    metrics: dict[str, str] | None = None
    diffusion_steps: int | None = None
    block_length: int | None = None
    remasking: str | None = None
    temperature: float = 0.0
    guidance: float = 0.0
    mc_samples: int = 128
    fraction: float = 0.5
    reuse_mask: int = 1

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TaskOptions:
        """From plain JSON.

        Raises:
            SpecError: an unknown field.
        """
        if unknown := set(data) - {f.name for f in fields(cls)}:
            raise SpecError(f"task options: unknown field(s) {', '.join(sorted(unknown))}")
        return cls(**data)

    def command(self) -> list[str]:
        """These options as words of the command line, defaults left out."""
        words: list[str] = []
        for option in fields(self):
            value = getattr(self, option.name)
            flag = f"--{option.name.replace('_', '-')}"
            if value == option.default:
                continue
            if option.name == "metrics":
                words += [word for task, metric in value.items() for word in ("--metric", f"{task}={metric}")]
            else:
                words += [flag] if value is True else [flag, str(value)]
        return words


def make_tasks(names: Sequence[str], options: TaskOptions) -> list[Task]:
    """The tasks of those names, checked: what is wrong with any of them is said at once.

    Raises:
        SpecError: a task is unknown or its data cannot be had.

    >>> [task.name for task in make_tasks(["self_prediction"], TaskOptions())]
    ['self_prediction']
    """
    problems = [
        f"{name} {number}: expected at least {least}"
        for name, number, least in (("limit", options.limit, 1), ("num_fewshot", options.num_fewshot, 0))
        if number is not None and number < least
    ]
    if options.include_path and not Path(options.include_path).is_dir():
        problems.append(f"include_path {options.include_path!r}: no such folder")
    if problems:
        raise SpecError("; ".join(problems))
    tasks: list[Task] = []
    how = Denoising(
        options.diffusion_steps,
        options.block_length,
        options.remasking or LOW_CONFIDENCE,
        options.temperature,
        options.guidance,
    )
    replayed = replace(how, remasking=options.remasking or RANDOM, temperature=options.temperature or 1.0)
    answers = DiffusionAnswers(how, options.mc_samples, options.reuse_mask)
    seed = options.seed or 0
    drawn = (options.sequences, options.length, seed, options.batch)
    if SelfPrediction.name in names:
        tasks.append(SelfPrediction(*drawn))
    if Restoration.name in names:
        tasks.append(Restoration(*drawn, options.fraction, options.diffusion_steps))
    if DenoisingReplay.name in names:
        tasks.append(DenoisingReplay(*drawn, replayed, options.reuse_mask))
    if NextToken.name in names:
        tasks.append(NextToken(options.text, options.limit, options.length, options.batch))
    if MaskedToken.name in names:
        text = (options.text, options.limit, options.length, options.batch)
        tasks.append(MaskedToken(*text, seed, options.fraction))
    if others := [name for name in names if name not in OURS]:
        from sparsedial.tasks.catalogue import lm_eval_tasks  # lm-eval is heavy, and self-prediction needs none of it

        tasks += lm_eval_tasks(
            others,
            include_path=options.include_path,
            limit=options.limit,
            num_fewshot=options.num_fewshot,
            apply_chat_template=options.apply_chat_template,
            metrics=options.metrics,
            **({} if options.seed is None else {"seed": options.seed}),
            batch_tokens=512 * options.batch,
            diffusion=answers,
        )
    return tasks
