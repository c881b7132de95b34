"""SHA-256 digest of a model that is in memory: its weights, adapters, configuration and tokenizer.

Python code is not part of the digest, except for the names of the classes. Neither are hooks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sparsedial.errors import ModelError

COMPILED_MODULE = "_orig_mod"
"""Name under which `torch.compile` keeps the module that it wraps."""

IGNORED_CONFIG_KEYS = (
    "_name_or_path", "_commit_hash", "_from_model_config", "architectures", "dtype", "torch_dtype",
    "transformers_version",
)  # fmt: skip
"""Entries of a configuration that do not change the model's output, or that its modules and weights tell."""

ADAPTER_SETTINGS = ("scaling", "active_adapters", "active_adapter", "disable_adapters", "merged_adapters")
"""Attributes of the modules of PEFT that change the output and are not weights."""

CALL_SETTINGS = ("truncation", "padding")
"""Entries of a tokenizer's JSON that each call of the tokenizer sets."""


def digest_model(model: nn.Module, tokenizer: Any = None) -> str:
    """Return one SHA-256 for everything about a model in memory that can change a measured value.

    The device of a weight does not matter, nor whether the model or its layers are compiled. Weights that accelerate
    has offloaded are read one module at a time.

    Args:
        model: The model.
        tokenizer: Its tokenizer, or None.

    Returns:
        The digest in hexadecimal.

    Raises:
        ModelError: A weight has no values, because it is on the device "meta".

    Example:
        >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> digest_model(first) == digest_model(second)
        False
        >>> _ = second.load_state_dict(first.state_dict())
        >>> digest_model(first) == digest_model(second)
        True
    """
    digest = hashlib.sha256()
    for path, module in model.named_modules():
        name = ".".join(part for part in path.split(".") if part != COMPILED_MODULE)
        if COMPILED_MODULE not in module._modules:
            _add_module(digest, name, module)
    _add_text(digest, _describe_settings(model))
    _add_text(digest, _describe_tokenizer(tokenizer))
    return digest.hexdigest()


def _add_module(digest: Any, name: str, module: nn.Module) -> None:
    """Add the class, the settings and the weights of one module, without those of its children."""
    settings = {}
    for setting in ADAPTER_SETTINGS:
        value = getattr(module, setting, None)
        if not callable(value):
            settings[setting] = value
    _add_text(digest, [name, f"{type(module).__module__}.{type(module).__qualname__}", settings])
    with _onloaded_weights(module):
        state = _read_state(module)
        for key in sorted(state):
            _add_text(digest, key)
            _add_value(digest, f"{name}.{key}", state[key])


def _read_state(module: nn.Module) -> dict[str, Any]:
    """Return the weights of one module and what its state dictionary holds beside them."""
    state: dict[str, Any] = {}
    packing = getattr(getattr(module, "weight", None), "quant_state", None)
    if getattr(packing, "packing_format_for_cpu", False):
        # bitsandbytes would unpack these 4-bit weights in place, with rounding errors, to save them.
        nn.Module._save_to_state_dict(module, state, "", keep_vars=False)
        state["quant_state"] = vars(packing)
    else:
        module._save_to_state_dict(state, "", keep_vars=False)
    return state


def _onloaded_weights(module: nn.Module) -> AbstractContextManager[Any]:
    """Return a context in which the weights of a module are in memory, even if accelerate has offloaded them."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module, torch.device("cpu"))


def _add_value(digest: Any, name: str, value: Any) -> None:
    """Add one entry of a state dictionary. The entries of quantised modules can be nested."""
    if isinstance(value, torch.Tensor):
        for tensor in _data_tensors(digest, value):
            if tensor.is_meta:
                raise ModelError(
                    f"{name} is on the device 'meta', so it has no values. Load the weights, or offload them with "
                    "accelerate."
                )
            _add_text(digest, [str(tensor.dtype), list(tensor.shape)])
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _add_text(digest, str(key))
            _add_value(digest, name, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _add_value(digest, name, item)
    else:
        _add_text(digest, value)


def _data_tensors(digest: Any, tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the tensors that hold the data of a tensor, which is a subclass if its weights are quantised."""
    if is_traceable_wrapper_subclass(tensor):
        names, context = tensor.__tensor_flatten__()
        _add_text(digest, [type(tensor).__qualname__, names, context])
        for name in names:
            yield from _data_tensors(digest, getattr(tensor, name))
    elif tensor.is_quantized:
        yield tensor.dequantize()
    else:
        yield tensor


def _describe_settings(model: Any) -> list[Any]:
    """Return the configuration of a model, its generation options and the configurations of its adapters."""
    settings: list[Any] = []
    for name in ("config", "generation_config"):
        owner: Any = getattr(model, name, None)
        if hasattr(owner, "to_dict"):
            settings.append(_without_names(owner.to_dict()))
    adapters = getattr(model, "peft_config", None)
    if isinstance(adapters, Mapping):
        for name, adapter in adapters.items():
            settings.append([name, adapter.to_dict()])
    return settings


def _without_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without its names and versions. It contains the configurations of its parts."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            kept[key] = _without_names(value)
        elif key not in IGNORED_CONFIG_KEYS:
            kept[key] = value
    return kept


def _describe_tokenizer(tokenizer: Any) -> Any:
    """Return the vocabulary, the settings and the chat template of a tokenizer, or None if there is none."""
    if tokenizer is None:
        return None
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary: Any = None
    if hasattr(backend, "to_str"):
        vocabulary = json.loads(backend.to_str())
        for setting in CALL_SETTINGS:
            vocabulary.pop(setting, None)
    elif hasattr(tokenizer, "get_vocab"):
        vocabulary = tokenizer.get_vocab()
    return [
        type(tokenizer).__qualname__,
        vocabulary,
        getattr(tokenizer, "special_tokens_map", None),
        getattr(tokenizer, "chat_template", None),
    ]


def _add_text(digest: Any, value: Any) -> None:
    """Add plain data to a digest. The addresses of objects are left out, because they differ between runs."""
    text = json.dumps(value, sort_keys=True, default=_describe_object)
    digest.update(f"{len(text)}:{text}".encode())


def _describe_object(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
