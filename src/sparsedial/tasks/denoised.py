"""How diffusion models answer lm-eval's requests: by Monte Carlo, and by denoising."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sparsedial.diffusion.blocks import generate_blocks
from sparsedial.diffusion.kinds import BLOCK_DIFFUSION
from sparsedial.diffusion.likelihood import greedy as greedily
from sparsedial.diffusion.likelihood import monte_carlo
from sparsedial.diffusion.overlap import Reuse, Steps
from sparsedial.diffusion.sampler import Denoising, fill_in, seed_of
from sparsedial.errors import SpecError, TaskError
from sparsedial.models import LanguageModel
from sparsedial.sparsify import Dial
from sparsedial.tasks.base import Progress, no_progress
from sparsedial.tasks.generation import Generated, Prompt
from sparsedial.tasks.packing import Window

INERT = {"top_p", "top_k", "num_beams", "repetition_penalty", "use_cache"}  # where nothing is sampled


@dataclass(frozen=True)
class DiffusionAnswers:
    """A masked diffusion model's ways to answer.

    Attributes:
        how: texts are generated; at temperature ``how.temperature`` unless a task samples at its own.
        mc_samples: of every log-likelihood. reuse_mask: as `Reuse` has it.
    """

    how: Denoising = field(default_factory=Denoising)
    mc_samples: int = 128
    reuse_mask: int = 1

    def __post_init__(self) -> None:
        for name in ("mc_samples", "reuse_mask"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} {getattr(self, name)}: expected at least 1")

    def check(self, limits: Iterable[int]) -> None:
        """Raise where so many tokens cannot be generated this way.

        Raises:
            SpecError: as `Denoising.counts` says.
        """
        for limit in sorted(set(limits)):
            self.how.counts(limit)

    def watch(self, dial: Dial | None) -> Steps | None:
        """Let the dial reuse masks as is asked here, and watch its denoising steps."""
        if dial is None:
            return None
        Reuse(dial, self.reuse_mask)
        return Steps(dial)

    def loglikelihoods(
        self,
        lm: LanguageModel,
        groups: Sequence[Sequence[Window]],
        *,
        max_length: int,
        greedy: bool = False,
        seed: int = 0,
        batch_tokens: int = 4096,
        dial: Dial | None = None,
        progress: Progress = no_progress,
    ) -> list[list[tuple[float, bool]]]:
        """Per group and window: the estimated log-likelihood, and whether the model says it greedily.

        Args:
            max_length: longer windows lose tokens on the left. greedy: find that out, at a forward per token;
                else it is False, as in LLaDA's evaluation.
        """
        pairs = [(list(w.context)[_excess(w, max_length) :], w.continuation) for windows in groups for w in windows]
        same: dict[str, Any] = {"guidance": self.how.guidance, "batch_tokens": batch_tokens, "dial": dial}
        mask_token = lm.fills_in()
        of = len(pairs) * self.mc_samples + (len(pairs) if greedy else 0)
        likely = monte_carlo(
            lm.model,
            pairs,
            mask_token,
            samples=self.mc_samples,
            seed=seed,
            progress=lambda n, _: progress(n, of),
            **same,
        )
        said = [False] * len(pairs)
        if greedy:
            begun = of - len(pairs)
            said = greedily(lm.model, pairs, mask_token, progress=lambda n, _: progress(begun + n, of), **same)
        answers = iter(zip(likely, said, strict=True))
        return [[next(answers) for _ in windows] for windows in groups]

    def generate(
        self,
        lm: LanguageModel,
        prompts: Sequence[Prompt],
        *,
        seed: int = 0,
        batch_tokens: int = 4096,
        dial: Dial | None = None,
        progress: Progress = no_progress,
    ) -> list[Generated]:
        """Fill in ``limit`` masks after every prompt; the text ends at the first end token, if there is one.

        A block diffusion model does that with its own `generate`, prompt by prompt: of ``how`` it knows the steps.

        Raises:
            TaskError: the task samples in a way that denoising does not know.
            SpecError: as `Denoising.counts` says.
        """
        if lm.kind == BLOCK_DIFFUSION:
            return self._in_blocks(lm, prompts, seed, dial, progress)
        answers: dict[int, Generated] = {}
        plans = [(self._how(p), p.limit, len(p.tokens)) for p in prompts]
        for plan in sorted(set(plans), key=lambda plan: -plan[1] - plan[2]):
            how, limit, length = plan
            alike = [i for i, other in enumerate(plans) if other == plan]
            at_once = max(1, batch_tokens // (length + limit) // (2 if how.guidance else 1))
            for batch in (alike[i : i + at_once] for i in range(0, len(alike), at_once)):
                tokens = torch.tensor([list(prompts[i].tokens) for i in batch])
                seeds = [seed_of(seed, i, list(prompts[i].tokens)) for i in batch]
                made = fill_in(lm.model, tokens, limit, lm.fills_in(), how, seeds, dial=dial).tokens[:, length:]
                for i, row in zip(batch, made.tolist(), strict=True):
                    answers[i] = _cut(lm, row, prompts[i].until)
                progress(len(answers), len(prompts))
        return [answers[i] for i in range(len(prompts))]

    def _in_blocks(
        self, lm: LanguageModel, prompts: Sequence[Prompt], seed: int, dial: Dial | None, progress: Progress
    ) -> list[Generated]:
        steps = {} if self.how.steps is None else {"max_denoising_steps": self.how.steps}
        answers = []
        for i, prompt in enumerate(prompts):
            self._how(prompt)  # or say what of the task's options it does not know
            tokens, own = torch.tensor([list(prompt.tokens)]).to(lm.device), seed_of(seed, i, list(prompt.tokens))
            made = generate_blocks(lm.model, tokens, seed=own, dial=dial, max_new_tokens=prompt.limit, **steps)
            row = made[0, tokens.shape[1] :][: prompt.limit].tolist()
            answers.append(_cut(lm, row, prompt.until))
            progress(len(answers), len(prompts))
        return answers

    def _how(self, prompt: Prompt) -> Denoising:
        options = dict(prompt.options)
        sampled = options.pop("do_sample", False)
        temperature = options.pop("temperature", None)
        if unknown := set(options) - (set() if sampled else INERT):
            raise TaskError(
                f"generation options {', '.join(sorted(unknown))}: expected temperature alone: that is how a masked "
                "diffusion model samples"
            )
        return replace(self.how, temperature=float(temperature)) if sampled and temperature else self.how


def _excess(window: Window, max_length: int) -> int:
    return max(0, len(window.context) + len(window.continuation) - max_length)


def _cut(lm: LanguageModel, row: list[int], until: Sequence[str]) -> Generated:
    ends: Any = getattr(lm.model.config.get_text_config(), "eos_token_id", None)
    ends = {*(ends if isinstance(ends, list) else [ends]), getattr(lm.tokenizer, "eos_token_id", None)} - {None}
    end = next((place for place, token in enumerate(row) if token in ends), None)
    row = row if end is None else row[: end + 1]
    text = lm.tokenizer.decode(row)
    return Generated(row, end is not None or any(stop in text for stop in until if stop))
