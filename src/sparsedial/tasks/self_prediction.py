"""Self-prediction: does the sparse model still say what the dense model would have said? No data needed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from sparsedial.diffusion.kinds import BLOCK_DIFFUSION, MASKED_DIFFUSION, sees_ahead
from sparsedial.errors import SpecError, TaskError
from sparsedial.models import LanguageModel
from sparsedial.sparsify import Dial
from sparsedial.tasks.base import Progress, Scores, no_progress, observe
from sparsedial.tasks.restoration import Restoration

VERSION = 2  # raised when the same settings would give other numbers
SAMPLED_AT_ONCE = 256  # one token a step: wide batches cost little
START_TOKENS = 64  # without a BOS: sequences start from this many fixed tokens, spread over the vocabulary


@dataclass(frozen=True)
class SelfPrediction:
    """The dense model samples ``sequences`` of ``length`` tokens from itself; the score is next-token agreement.

    Sampling is at temperature 1 from the whole distribution, from the model's BOS or, without one, from a
    fixed set of start tokens. Teacher-forced on those sequences, an example's score is how often the
    model's arg max equals the sampled next token, so the dense score is below 1 as well; what counts is
    the ratio of sparse to dense.

    A masked diffusion model predicts itself by `Restoration`, with the same numbers.

    Attributes:
        sequences: N, the number of examples.
        length: L, sampled tokens in each, the start token not counted.
        seed: of the sampling.
        batch: sequences per forward.
    """

    name: ClassVar[str] = "self_prediction"

    sequences: int = 64
    length: int = 96
    seed: int = 0
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("sequences", "length", "batch"):
            if getattr(self, name) < 1:
                raise SpecError(f"self_prediction: {name}={getattr(self, name)}: expected at least 1")
        if not 0 <= self.seed < 2**63:
            raise SpecError(f"seed={self.seed}: expected a number from 0 to 2**63 - 1")

    def identity(self) -> dict[str, Any]:
        """Name, version and all four numbers."""
        return {"task": self.name, "version": VERSION, **asdict(self)}

    @torch.inference_mode()
    def prepare(self, lm: LanguageModel, progress: Progress = no_progress) -> dict[str, Any]:
        """Sample the sequences: ``{"tokens": [[start, t1, ... tL], ...]}``."""
        if lm.kind == MASKED_DIFFUSION:
            return self._restoration().prepare(lm, progress)
        self._check(lm)
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        starts = _starts(lm, self.sequences)
        rows: list[list[int]] = []
        for batch in starts.split(SAMPLED_AT_ONCE):
            tokens, cache, new = [batch], None, batch[:, None]
            for step in range(self.length):
                out = lm.model(input_ids=new.to(lm.device), **({} if cache is None else {"past_key_values": cache}))
                cache = getattr(out, "past_key_values", None)
                draws = torch.rand(len(batch), 1, generator=generator)  # on the CPU: the same ones on every device
                mass = out.logits[:, -1].float().softmax(-1).cumsum(-1)
                new = torch.searchsorted(mass, draws.to(mass.device) * mass[:, -1:]).clamp(max=mass.shape[-1] - 1)
                tokens.append(new[:, 0].cpu())
                if cache is None:  # a model without one reads everything again
                    new = torch.stack(tokens, 1)
                progress(len(rows) * self.length + len(batch) * (step + 1), self.sequences * self.length)
            rows += torch.stack(tokens, 1).tolist()
        return {"tokens": rows}

    def _check(self, lm: LanguageModel) -> None:
        """Raise where a model cannot be sampled from left to right, or not that far."""
        limit = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(limit, int) and 0 < limit < self.length:
            raise TaskError(f"{self.name}: length {self.length}, but the model has {limit} positions: take fewer")
        if lm.kind == BLOCK_DIFFUSION or sees_ahead(lm.model):
            raise TaskError(f"{self.name}: the model is not causal: what comes later changes what is said before it")

    def _restoration(self) -> Restoration:
        return Restoration(self.sequences, self.length, self.seed, self.batch)

    @torch.inference_mode()
    def score(
        self, lm: LanguageModel, examples: dict[str, Any], dial: Dial | None = None, progress: Progress = no_progress
    ) -> Scores:
        """Per sequence, the share of its L sampled tokens that are the model's arg max."""
        if lm.kind == MASKED_DIFFUSION:
            return self._restoration().score(lm, examples, dial, progress)
        tokens = torch.tensor(examples["tokens"])
        values: list[np.ndarray] = []
        with observe(dial, phase="prefill"):
            for rows in tokens.split(self.batch):
                values.append(self._hits(lm, rows).numpy())
                progress(sum(map(len, values)), len(tokens))
        return Scores("agreement", np.concatenate(values))

    def _hits(self, lm: LanguageModel, rows: torch.Tensor) -> torch.Tensor:
        inputs, targets = rows[:, :-1].to(lm.device), rows[:, 1:].to(lm.device)
        best = lm.model(input_ids=inputs, use_cache=False).logits.argmax(-1)
        return (best == targets).double().mean(1).cpu()


def _starts(lm: LanguageModel, count: int) -> torch.Tensor:
    """The start token of every sequence: the BOS, or a fixed set spread over the vocabulary."""
    config = lm.model.config.get_text_config()
    bos = getattr(lm.tokenizer, "bos_token_id", None)
    bos = getattr(config, "bos_token_id", None) if bos is None else bos
    if bos is not None:
        return torch.full((count,), int(bos))
    special = set(getattr(lm.tokenizer, "all_special_ids", None) or [])
    spread = torch.linspace(0, config.vocab_size - 1, START_TOKENS + len(special)).long().tolist()
    fixed = [t for t in dict.fromkeys(spread) if t not in special][:START_TOKENS]
    return torch.tensor([fixed[index % len(fixed)] for index in range(count)])
