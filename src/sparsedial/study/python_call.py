"""The call of `sparsedial.measure` that describes a study, for studies that no command can reproduce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ARGUMENT_NAMES = {"sites": "sites", "tasks": "tasks", "rules": "rule", "values": "p"}
"""Arguments of `sparsedial.measure` for the fields of a study. Other fields have the same name."""

SINGLE_VALUES = ("rules",)
"""Fields with several entries that are written as their entry if there is only one."""


def format_call(model: str, settings: Mapping[str, Any], objects: Sequence[str]) -> str:
    """Return the text of a call of `sparsedial.measure`.

    Args:
        model: Name of the model.
        settings: Fields of the study that differ from their defaults, and options of its tasks, by name.
        objects: Names of the model and of the tasks that were objects. Tasks are written without quotation marks.

    Returns:
        Python code.

    Example:
        >>> format_call("llama", {"sites": ("input",), "limit": 30}, ["llama"])
        "sparsedial.measure(model, tokenizer, name='llama', sites=['input'], limit=30)"
        >>> format_call("llama", {"tasks": ("piqa", "mine"), "rules": ("top_k",)}, ["mine"])
        "sparsedial.measure('llama', tasks=['piqa', mine], rule='top_k')"
    """
    arguments = [repr(model)]
    if model in objects:
        arguments = ["model", "tokenizer", f"name={model!r}"]
    for name, value in settings.items():
        arguments.append(f"{ARGUMENT_NAMES.get(name, name)}={_format_value(name, value, objects)}")
    return f"sparsedial.measure({', '.join(arguments)})"


def _format_value(name: str, value: Any, objects: Sequence[str]) -> str:
    if not isinstance(value, tuple | list):
        return repr(value)
    if name in SINGLE_VALUES and len(value) == 1:
        return repr(value[0])
    entries = []
    for entry in value:
        entries.append(str(entry) if entry in objects else repr(entry))
    return f"[{', '.join(entries)}]"
