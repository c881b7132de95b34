"""Inference for tasks: log-likelihoods, text generation and denoising.

Tasks call `make_backend`, which returns an `InferenceBackend`, the common interface of all kinds of models. The
algorithms are in the modules `loglikelihood`, `generation`, `masked_diffusion`, `masked_diffusion_likelihood` and
`block_diffusion_generation`.
"""

from sparsedial.inference.backend import InferenceBackend, WindowScore
from sparsedial.inference.backend_factory import make_backend
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.diffusion_options import DiffusionOptions
from sparsedial.inference.generation import GeneratedTokens, Prompt
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import Progress, RunContext, ignore_progress

__all__ = [
    "DenoisingConfig",
    "DiffusionOptions",
    "GeneratedTokens",
    "InferenceBackend",
    "Progress",
    "Prompt",
    "RunContext",
    "Window",
    "WindowScore",
    "make_backend",
    "ignore_progress",
]
