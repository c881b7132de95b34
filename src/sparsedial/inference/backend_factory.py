"""Choice of the inference backend by the kind of the model."""

from __future__ import annotations

from sparsedial.errors import ModelError
from sparsedial.inference.backend import InferenceBackend
from sparsedial.inference.block_diffusion_backend import BlockDiffusionBackend
from sparsedial.inference.causal_backend import CausalBackend
from sparsedial.inference.diffusion_options import DEFAULT_DIFFUSION_OPTIONS, DiffusionOptions
from sparsedial.inference.masked_diffusion_backend import MaskedDiffusionBackend
from sparsedial.models.kind import BLOCK_DIFFUSION, CAUSAL, KINDS, MASKED_DIFFUSION
from sparsedial.models.loading import LanguageModel


def make_backend(lm: LanguageModel, diffusion: DiffusionOptions = DEFAULT_DIFFUSION_OPTIONS) -> InferenceBackend:
    """Return the backend that answers requests with a model.

    Args:
        lm: The model and its tokenizer.
        diffusion: Settings for diffusion models. A causal model does not use them.

    Returns:
        The backend for the model's kind.

    Raises:
        ModelError: The kind is unknown, or a masked diffusion model has no mask token.
    """
    if lm.kind == CAUSAL:
        return CausalBackend(lm)
    if lm.kind == MASKED_DIFFUSION:
        return MaskedDiffusionBackend(lm, diffusion)
    if lm.kind == BLOCK_DIFFUSION:
        return BlockDiffusionBackend(lm, diffusion)
    raise ModelError(f"model {lm.source.name!r} is of kind {lm.kind!r}: expected one of {', '.join(KINDS)}")
