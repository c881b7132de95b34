"""Self-prediction: does the sparse model still say what the dense model would have said? No data needed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from sparsedial.errors import SpecError
from sparsedial.models import LanguageModel
from sparsedial.sparsify import Dial
from sparsedial.tasks.base import Progress, Scores, no_progress, observe

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

    Attributes:
        sequences: N, the number of examples.
        length: L, sampled tokens in each, the start token not counted.
        seed: of the sampling.
        batch: sequences per forward.
    """

    name: ClassVar[str] = "self_prediction"

    sequences: int = 64
    length: int = 64
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        for name in ("sequences", "length", "batch"):
            if getattr(self, name) < 1:
                raise SpecError(f"self_prediction: {name}={getattr(self, name)}: expected at least 1")

    def identity(self) -> dict[str, Any]:
        """Name, version and all four numbers."""
        return {"task": self.name, "version": VERSION, **asdict(self)}

    @torch.inference_mode()
    def prepare(self, lm: LanguageModel, progress: Progress = no_progress) -> dict[str, Any]:
        """Sample the sequences: ``{"tokens": [[start, t1, ... tL], ...]}``."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        starts = _starts(lm, self.sequences)
        rows: list[list[int]] = []
        for batch in starts.split(SAMPLED_AT_ONCE):
            tokens, cache, new = [batch], None, batch[:, None]
            for step in range(self.length):
                out = lm.model(input_ids=new.to(lm.device), past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                draws = torch.rand(len(batch), 1, generator=generator)  # on the CPU: the same ones on every device
                mass = out.logits[:, -1].float().softmax(-1).cumsum(-1)
                new = torch.searchsorted(mass, draws.to(mass.device) * mass[:, -1:]).clamp(max=mass.shape[-1] - 1)
                tokens.append(new[:, 0].cpu())
                progress(len(rows) * self.length + len(batch) * (step + 1), self.sequences * self.length)
            rows += torch.stack(tokens, 1).tolist()
        return {"tokens": rows}

    @torch.inference_mode()
    def score(
        self, lm: LanguageModel, examples: dict[str, Any], dial: Dial | None = None, progress: Progress = no_progress
    ) -> Scores:
        """Per sequence, the share of its L sampled tokens that are the model's arg max."""
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
