"""Checks that a loaded model is the model in the checkpoint: no weight is missing and none is left over."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sparsedial.errors import ModelError
from sparsedial.models.log_callback import Log, discard_message

MAX_LISTED_KEYS = 4
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
ADAPTER_KEY = re.compile(
    r"(^|[._])(lora|loha|lokr|dora|vera|boft|oft|ia3|hada)_|(^|\.)(base_layer|base_model|modules_to_save|adapters?)\.",
    re.IGNORECASE,
)
LEGACY_BUFFER = re.compile(r"(attn|attention)\.(masked_)?bias$|inv_freq$|position_ids$")
"""Buffers that older versions of transformers saved, and that newer versions compute."""
ADAPTER_ADVICE = (
    "Merge the adapter into the weights (model.merge_and_unload() of peft, then save_pretrained()), and measure the "
    "merged model"
)


def check_no_adapter_files(folder: Path) -> None:
    """Check that a folder does not contain an adapter, which would not be part of the measured model.

    Args:
        folder: Folder of a model.

    Raises:
        ModelError: The folder contains one of `ADAPTER_FILES`.
    """
    adapter_files = [name for name in ADAPTER_FILES if (folder / name).is_file()]
    if adapter_files:
        raise ModelError(
            f"model {str(folder)!r}: the directory has an adapter ({', '.join(adapter_files)}), which would not be "
            f"measured. {ADAPTER_ADVICE}. If the adapter is merged already, move these files out of the directory."
        )


def check_checkpoint_keys(
    model: nn.Module, loading_info: Mapping[str, Collection[Any]], description: str, log: Log = discard_message
) -> None:
    """Check that a model was loaded with all weights of its checkpoint.

    Keys that transformers declares as ignorable for the architecture are not in ``loading_info``.

    Args:
        model: The loaded model.
        loading_info: The loading info of transformers, with ``missing_keys``, ``mismatched_keys`` and
            ``unexpected_keys``.
        description: The model, as the beginning of an error message.
        log: Called with a message about weights that are not used, if they belong to parts that the model does not
            have, such as a vision tower or a value head.

    Raises:
        ModelError: Weights are missing or have other shapes, or weights of an adapter or of existing layers are not
            used.
    """
    unexpected = sorted(map(str, loading_info["unexpected_keys"]))
    adapter_keys = [key for key in unexpected if ADAPTER_KEY.search(key)]
    if adapter_keys:
        raise ModelError(
            f"{description}: the checkpoint contains an adapter that is not merged: {list_keys(adapter_keys)}. Without "
            f"it, another model would be measured. {ADAPTER_ADVICE}."
        )
    missing = sorted(map(str, [*loading_info["missing_keys"], *loading_info["mismatched_keys"]]))
    if missing:
        raise ModelError(
            f"{description}: {len(missing)} weights are missing or have mismatched shapes ({list_keys(missing)}); they "
            "would be randomly initialised. Expected a complete checkpoint of a language model."
        )
    modules = dict(model.named_modules())
    unused = [key for key in unexpected if not LEGACY_BUFFER.search(key)]
    unused_in_layers = [key for key in unused if _belongs_to_existing_layer(key, modules)]
    if unused_in_layers:
        raise ModelError(
            f"{description}: {type(model).__name__} does not use {len(unused_in_layers)} weights of its layers: "
            f"{list_keys(unused_in_layers)}. The measured model would differ from the checkpoint. Check config.json, "
            "or save the model again with the version of transformers that supports it."
        )
    if unused:
        log(f"{description}: {len(unused)} weights are not part of {type(model).__name__}: {list_keys(unused)}")


def list_keys(keys: Collection[str]) -> str:
    """Return the first keys, separated by commas, and the number of the others.

    Args:
        keys: Names of weights.

    >>> list_keys(["a", "b"]), list_keys(["a", "b", "c", "d", "e", "f"])
    ('a, b', 'a, b, c, d and 2 more')
    """
    listed = ", ".join(list(keys)[:MAX_LISTED_KEYS])
    remaining = len(keys) - MAX_LISTED_KEYS
    if remaining > 0:
        listed += f" and {remaining} more"
    return listed


def _belongs_to_existing_layer(key: str, modules: Mapping[str, nn.Module]) -> bool:
    """Return True if the innermost module on the path of a key is in a numbered layer or has weights of its own."""
    path = key
    while path and path not in modules:
        path = path.rpartition(".")[0]
    if not path:
        return False
    is_in_layer = any(piece.isdigit() for piece in path.split("."))
    return is_in_layer or next(modules[path].parameters(recurse=False), None) is not None
