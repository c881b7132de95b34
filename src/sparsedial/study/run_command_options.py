"""The syntax of ``sparsedial run``: which option sets which field of a study, and how its value is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPECIAL_OPTIONS = {"sites": "--site", "rules": "--rule", "values": "--p", "modules": "--ffn", "metrics": "--metric"}
"""Options whose name differs from the name of their field."""

REPEATED_OPTIONS = ("sites",)
"""Fields with several entries whose option is repeated for each entry."""

TASK_OPTIONS = (
    "include_path", "limit", "text", "num_fewshot", "apply_chat_template", "max_gen_toks", "do_sample",
    "metrics", "sequences", "length", "seed",
    "batch", "diffusion_steps", "block_length", "remasking", "temperature", "guidance", "mc_samples", "fraction",
    "reuse_mask", "thinking_markers",
)  # fmt: skip
"""Options of tasks that ``sparsedial run`` accepts."""


def option_name(field: str) -> str:
    """Return the command-line option that sets a field of the study or an option of the tasks.

    Args:
        field: Name of the field.

    Returns:
        The option, with its two dashes.

    Example:
        >>> option_name("values"), option_name("mask_token")
        ('--p', '--mask-token')
    """
    return SPECIAL_OPTIONS.get(field, f"--{field.replace('_', '-')}")


def command_line_words(field: str, value: Any) -> list[str]:
    """Return the words of a command line that set a field to a value.

    Args:
        field: Name of the field.
        value: A number, a string, a boolean, a tuple, or a mapping of strings. None and False give no words.

    Returns:
        The option and its value. The option is repeated for each entry of a mapping.

    Example:
        >>> command_line_words("values", (0.9, 0.8)), command_line_words("modules", {"up": "w1"})
        (['--p', '0.9,0.8'], ['--ffn', 'up=w1'])
        >>> command_line_words("sites", ("input", "gate")), command_line_words("trust_remote_code", True)
        (['--site', 'input', '--site', 'gate'], ['--trust-remote-code'])
    """
    option = option_name(field)
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    words = []
    if isinstance(value, Mapping):
        for name, entry in value.items():
            words += [option, f"{name}={entry}"]
    elif field in REPEATED_OPTIONS:
        for entry in value:
            words += [option, str(entry)]
    elif isinstance(value, tuple | list):
        words = [option, ",".join(map(str, value))]
    else:
        words = [option, str(value)]
    return words
