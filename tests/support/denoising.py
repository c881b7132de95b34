"""Denoising runs and their recording, for the tests of what happens along the steps."""

from dataclasses import dataclass

import torch

from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.masked_diffusion import denoise
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel
from sparsedial.inference.run_context import RunContext

PROMPTS = torch.tensor([[5, 6, 7], [7, 8, 9]])
MASK_TOKEN = 95


@dataclass
class Call:
    """One call of the rule."""

    counter: int
    step: int
    masked: torch.Tensor
    kept: torch.Tensor


class CallRecorder:
    """Stores every call of a sparsifier's rule."""

    def __init__(self, sparsifier):
        self.calls = []
        sparsifier.wrap(self.record)

    def record(self, counter, x, context, inner):
        y, kept = inner(counter, x, context)
        entries = (y != 0).reshape(-1, y.shape[-1])
        self.calls.append(Call(counter, context.step, context.masked_tokens.reshape(-1), entries))
        return y, kept


def run_denoising(model, sparsifier, length=8, steps=4, **options):
    config = DenoisingConfig(steps=steps, **options)
    return denoise(MaskedDiffusionModel(model, MASK_TOKEN), PROMPTS, length, config, [0, 1], RunContext(sparsifier))
