"""Language models: finding their files by name, loading them, and detecting their kind.

`resolve_source` turns a name (hub ID, directory, GGUF file, alias, ``zoo:NAME``) into local files with a digest.
`load_language_model` loads these files and detects whether the model is causal or a diffusion model.

Example:
    >>> lm = load_language_model(resolve_source("zoo:dense-0.4m"), device="cpu", dtype="float32")
    >>> lm.kind, lm.parameters
    ('causal', 422336)
"""

from sparsedial.models.identity import ModelIdentity
from sparsedial.models.kind import BLOCK_DIFFUSION, CAUSAL, KINDS, MASKED_DIFFUSION, detect_kind, find_mask_token
from sparsedial.models.loading import LanguageModel, load_language_model
from sparsedial.models.sources import Source, check_model_exists, resolve_source

__all__ = [
    "BLOCK_DIFFUSION",
    "CAUSAL",
    "KINDS",
    "MASKED_DIFFUSION",
    "LanguageModel",
    "ModelIdentity",
    "Source",
    "check_model_exists",
    "detect_kind",
    "find_mask_token",
    "load_language_model",
    "resolve_source",
]
