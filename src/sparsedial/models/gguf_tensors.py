"""Check that transformers uses all tensors of a GGUF file. It skips unknown ones without a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsedial.errors import ModelError
from sparsedial.models.checkpoint_keys import ADAPTER_ADVICE, ADAPTER_KEY, list_keys

IGNORED_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors of llama.cpp that repeat settings of the configuration."""


def check_gguf_tensors(names: Sequence[str], model: Any, description: str) -> None:
    """Check that every tensor of a GGUF file belongs to the loaded model.

    Args:
        names: Names of the tensors in the file.
        model: The model that transformers loaded from the file.
        description: The model, as the beginning of an error message.

    Raises:
        ModelError: The file has tensors of an adapter, or tensors that transformers skips.
    """
    adapter_tensors = [name for name in names if ADAPTER_KEY.search(name)]
    if adapter_tensors:
        raise ModelError(
            f"{description}: the GGUF file contains an adapter that is not merged: {list_keys(adapter_tensors)}. "
            f"{ADAPTER_ADVICE}."
        )
    skipped = find_skipped_tensors(names, model)
    if skipped:
        raise ModelError(
            f"{description}: transformers skips {len(skipped)} tensors of the GGUF file: {list_keys(skipped)}. The "
            f"measured {type(model).__name__} would differ from the file. Use the original checkpoint in safetensors."
        )


def find_skipped_tensors(names: Sequence[str], model: Any) -> list[str]:
    """Return the tensors of a GGUF file that transformers skips when it loads the file.

    A tensor is loaded if its name is the GGUF name of a parameter of the model. The names of other tensors are compared
    with those that llama.cpp knows for the architecture, because transformers splits or renames some of them, such as
    those of experts. Biases are never renamed.

    Args:
        names: Names of the tensors in the file.
        model: The model that transformers loaded from the file.

    Returns:
        The names of the skipped tensors, in the given order.
    """
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

    loaded = get_gguf_hf_weights_map(model, TensorProcessor(config=model.config.to_dict()))
    known = _llama_cpp_names(model.config.num_hidden_layers)
    skipped = []
    for name in names:
        if name in loaded or name in IGNORED_TENSORS:
            continue
        stem = name.removesuffix(".weight").removesuffix(".bias")
        is_dense_bias = name.endswith(".bias") and "_exps" not in name
        if is_dense_bias or stem not in known:
            skipped.append(name)
    return skipped


def _llama_cpp_names(layers: int) -> set[str]:
    """Return the names of all tensors that llama.cpp knows, without their suffix."""
    from gguf import TENSOR_NAMES

    names = set()
    for template in TENSOR_NAMES.values():
        for layer in range(layers):
            names.add(template.format(bid=layer, xid=0))
    return names
