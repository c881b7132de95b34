"""Models in memory: they are measured as they are, whatever made them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn

from sparsedial.dtype_names import dtype_name
from sparsedial.errors import ModelError, SpecError
from sparsedial.models.kind import CAUSAL, check_kind_name, detect_kind, find_mask_token, parameter_device
from sparsedial.models.loading import LanguageModel, find_loaded_source
from sparsedial.models.memory_digest import COMPILED_MODULE, digest_model
from sparsedial.models.sources import Source

IN_MEMORY = "in memory"
"""Origin of a model that was not loaded by `load_model`."""

HUB_CACHE_FOLDER = re.compile(r"models--(?P<id>.+?)[\\/]snapshots[\\/]")
"""Path of a model in the cache of the Hugging Face Hub. Its ID is written with ``--`` for ``/``."""


@dataclass(frozen=True)
class ModelInMemory:
    """A model that the caller has loaded or built.

    Attributes:
        model: A transformers model, or a wrapper of one that has its ``config`` and returns its logits.
        tokenizer: Its tokenizer. None for tasks that need none.
        name: Name of the model in tables and files.
    """

    model: Any
    tokenizer: Any
    name: str

    def make_language_model(self, kind: str | None = None, mask_token: int | None = None) -> LanguageModel:
        """Return the model as tasks take it, after detecting its kind and computing its digest.

        Args:
            kind: Expected kind, one of `sparsedial.models.kind.KINDS`. Defaults to None, which accepts any kind.
            mask_token: Token ID of the mask of a diffusion model. Defaults to None, in which case it is read from the
                configuration or the tokenizer.

        Returns:
            The model. It is not copied.

        Raises:
            SpecError: The kind is unknown, or the mask token is outside the vocabulary.
            ModelError: The model returns no logits, is of another kind, or has weights without values.
        """
        check_kind_name(kind)
        detected_kind = detect_kind(self.model, kind)
        token = None if detected_kind == CAUSAL else find_mask_token(self.model, self.tokenizer, mask_token)
        source = Source(
            name=self.name,
            path=Path(),
            origin=IN_MEMORY,
            digest=digest_model(self.model, self.tokenizer),
            trust_remote_code=type(self.model).__module__.startswith("transformers_modules"),
        )
        loaded = find_loaded_source(self.model)
        if loaded is not None:
            origin = f"{loaded.origin}, {IN_MEMORY}"
            source = replace(source, origin=origin, is_dequantised=loaded.is_dequantised)
        return LanguageModel(
            model=self.model,
            tokenizer=self.tokenizer,
            source=source,
            dtype=_find_dtype(self.model),
            device=parameter_device(self.model),
            kind=detected_kind,
            mask_token=token,
        )


def check_model(model: Any) -> None:
    """Check that an object has the interface of a language model of transformers.

    Args:
        model: Any object.

    Raises:
        SpecError: The object is no torch module.
        ModelError: The module has no configuration.
    """
    if not isinstance(model, nn.Module):
        raise SpecError(
            f"model: got an object of type {type(model).__name__}: expected the name of a model, or a transformers "
            "model in memory"
        )
    if not hasattr(getattr(model, "config", None), "get_text_config"):
        raise ModelError(
            f"model: {type(model).__name__} has no configuration of transformers: expected a transformers language "
            "model, or a wrapper with its attribute 'config'. Pass the model that a wrapper of another kind contains."
        )


def default_name(model: Any) -> str:
    """Return the name of a model in memory.

    Args:
        model: A model that passes `check_model`.

    Returns:
        The name by which `load_model` loaded it, else the ID or the name of the directory in its configuration, else
        the name of its class. The names of its adapters (PEFT) are added.
    """
    name = _base_name(model)
    if getattr(model, "peft_config", None):
        return f"{name} + {', '.join(model.peft_config)}"
    return name


def without_compilation(model: Any) -> Any:
    """Return the model that `torch.compile` has wrapped, or the model itself if it is not wrapped.

    Args:
        model: The model.
    """
    return getattr(model, COMPILED_MODULE, model)


def _base_name(model: Any) -> str:
    """Return the name of a model without its adapters."""
    loaded = find_loaded_source(model)
    if loaded is not None:
        return loaded.name
    path = str(getattr(model.config, "_name_or_path", "") or "")
    cached = HUB_CACHE_FOLDER.search(path)
    if cached is not None:
        return cached["id"].replace("--", "/")
    if Path(path).is_absolute():
        path = PurePath(path).name
    inner = without_compilation(model)
    if hasattr(inner, "get_base_model"):  # a wrapper of PEFT
        inner = inner.get_base_model()
    return path or type(inner).__name__


@contextmanager
def ready_to_measure(model: nn.Module) -> Iterator[None]:
    """Set a model to evaluation mode, and run it without its compiled code. Both are restored, also after an error.

    Compiled code would be compiled again for each rule, because a rule changes the model.

    Args:
        model: The model.
    """
    training = [module for module in model.modules() if module.training]
    with ExitStack() as cleanup:
        if any(map(_is_compiled, model.modules())):
            cleanup.enter_context(torch.compiler.set_stance("force_eager"))
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _is_compiled(module: nn.Module) -> bool:
    return COMPILED_MODULE in module._modules or getattr(module, "_compiled_call_impl", None) is not None


def _find_dtype(model: Any) -> str:
    """Return the name of the dtype in which a model computes, such as "bfloat16"."""
    dtype: Any = getattr(model, "dtype", None)
    if dtype is None:
        dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), None)
    return dtype_name(dtype)
