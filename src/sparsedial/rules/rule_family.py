"""Families of rules: rules that differ in nothing but their parameter, named by text such as ``top_p(q=2)``.

A curve consists of the trials of one family. The text names the rule and those of its further fields that differ from
their defaults.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from sparsedial.errors import SpecError

FAMILY_PATTERN = re.compile(r"\s*([^()\s]+)\s*\((.*)\)\s*", re.DOTALL)


def split_family(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options that the text of a family consists of. They are not checked yet.

    Args:
        text: Name of a rule, which options in parentheses may follow.

    Returns:
        The name, and the values of the options by their names: numbers or text.

    Raises:
        SpecError: What is in the parentheses is not a list of options.

    Example:
        >>> split_family("top_k"), split_family("top_p(q=2)")
        (('top_k', {}), ('top_p', {'q': 2}))
    """
    match = FAMILY_PATTERN.fullmatch(text)
    if match is None:
        return text, {}
    name, arguments = match.groups()
    options: dict[str, Any] = {}
    for argument in arguments.split(","):
        option, equals, value = (part.strip() for part in argument.partition("="))
        if not option.isidentifier() or not equals or not value or option in options:
            raise SpecError(f"rule {text!r}: expected a name and options such as top_p(q=2), got {argument.strip()!r}")
        options[option] = _parse_value(value)
    return name, options


def join_family(name: str, options: Mapping[str, Any]) -> str:
    """Return the text of a family.

    Args:
        name: Name of a rule.
        options: Values of its further fields that differ from their defaults.

    Example:
        >>> join_family("top_p", {"q": 2.0}), join_family("top_k", {})
        ('top_p(q=2)', 'top_k')
    """
    if not options:
        return name
    listed = ", ".join(f"{option}={_format_value(value)}" for option, value in options.items())
    return f"{name}({listed})"


def _parse_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _format_value(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return str(value)
