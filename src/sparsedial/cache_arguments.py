"""Names of the cache of keys and values in the arguments and results of models.

transformers 5.24 renamed ``past_key_values`` to ``cache``. Code of models from the hub may have either name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from inspect import signature
from typing import Any

KEY_VALUE_CACHES = ("cache", "past_key_values")
CACHE_ARGUMENTS = (
    *KEY_VALUE_CACHES, "cache_params", "past_buckets_states", "mems", "state", "past", "layer_past",
)  # fmt: skip
"""Names of all arguments that hold a cache or a recurrent state."""


def find_cache(arguments: Mapping[str, Any]) -> Any:
    """Return the cache or recurrent state among the arguments of a forward pass. None if there is none.

    An argument of another name is a cache as well if it counts its tokens as the caches of transformers do.

    Args:
        arguments: The arguments, by name.

    Example:
        >>> find_cache({"use_cache": True, "past_key_values": ["keys", "values"]})
        ['keys', 'values']
    """
    for name in CACHE_ARGUMENTS:
        value = arguments.get(name)
        if value is not None and not isinstance(value, bool):
            return value
    return next((value for value in arguments.values() if hasattr(value, "get_seq_length")), None)


def cache_argument(forward: Callable[..., Any]) -> str:
    """Return the name of the argument that takes the cache of keys and values.

    Args:
        forward: The forward of a causal language model.

    Returns:
        "cache" or "past_key_values": the one in the signature, otherwise the one of this version of transformers.

    Example:
        >>> cache_argument(lambda input_ids, past_key_values=None: None)
        'past_key_values'
    """
    parameters = signature(forward).parameters
    for name in KEY_VALUE_CACHES:
        if name in parameters:
            return name
    from transformers.modeling_outputs import CausalLMOutputWithPast

    names = {field.name for field in fields(CausalLMOutputWithPast)}
    return next(name for name in KEY_VALUE_CACHES if name in names)


def returned_cache(output: Any) -> Any:
    """Return the cache of keys and values in the result of a model. None if there is none.

    Args:
        output: The result of a forward pass.

    Example:
        >>> from types import SimpleNamespace
        >>> returned_cache(SimpleNamespace(logits=0, past_key_values="keys and values"))
        'keys and values'
    """
    for name in KEY_VALUE_CACHES:
        if hasattr(output, name):
            return getattr(output, name)
    return None
