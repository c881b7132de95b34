"""Hashes of a task's configuration and data, so that the identity of a trial depends on their content."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Collection, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

UNHASHED_FIELDS = ("num_fewshot", "tag", "task_alias")
"""Fields of lm-eval's configuration that are separate entries of a task's identity, or that change no score."""


def config_digest(config: Any) -> str:
    """Return a SHA-256 of the configuration of an lm-eval task.

    Args:
        config: lm-eval's ``TaskConfig``.

    Returns:
        The digest, which does not depend on the location of the configuration file.
    """
    content = _omit_keys(vars(config), UNHASHED_FIELDS)
    content["metadata"] = _omit_keys(content.get("metadata") or {}, ("config_source",))
    return digest(content)


def digest(value: Any) -> str:
    """Return a SHA-256 of data that can be written as JSON, including the source code of functions in it.

    Args:
        value: Nested dictionaries and lists. The order of keys does not matter. A function counts as its name and its
            whole source file, a dataclass instance as its fields, and any other object that JSON lacks as its ``str``.

    Returns:
        The digest as 64 hexadecimal digits.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_convert_to_json).encode()).hexdigest()


def _omit_keys(mapping: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


def _convert_to_json(value: Any) -> Any:
    """Return a JSON representation of a value that `json.dumps` cannot write."""
    if callable(value):
        return _describe_function(value)
    if is_dataclass(value):
        return vars(value)
    return str(value)


def _describe_function(function: Any) -> Any:
    """Return a function's name and its whole source file, since it may call other functions of the file."""
    try:
        return [function.__qualname__, Path(inspect.getsourcefile(function) or "").read_text()]
    except (AttributeError, TypeError, OSError):
        return getattr(function, "__qualname__", type(function).__qualname__)
