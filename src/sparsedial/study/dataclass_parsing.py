"""Parsing of plain data into frozen dataclasses. One error message describes all problems."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from sparsedial.errors import SpecError
from sparsedial.suggestions import closest_names

T = TypeVar("T")

STRICT = ConfigDict(strict=True, extra="forbid")
"""Configuration for dataclasses that `parse_dataclass` builds: no coercion and no unknown keys."""

EXPECTED_VALUES = {
    "bool_type": "true or false",
    "dataclass_type": "keys and values",
    "dict_type": "keys and values",
    "float_type": "a number",
    "int_type": "a whole number",
    "mapping_type": "keys and values",
    "string_type": "text",
    "tuple_type": "a list",
}
"""Description of the expected type for each type of error that pydantic reports."""

MAX_QUOTED_LENGTH = 60


def parse_dataclass(record_type: type[T], data: Any, source: str) -> T:
    """Build a dataclass from plain JSON or YAML data, checked against its type hints.

    Types are strict: text is never read as a number, and true is not a number. Lists become tuples. Whole numbers are
    accepted where a number is expected.

    Args:
        record_type: A dataclass whose ``__pydantic_config__`` is `STRICT`.
        data: A dictionary with one entry per field.
        source: Origin of the data, such as a path. Every line of the error message starts with it.

    Returns:
        An instance of ``record_type``.

    Raises:
        SpecError: Fields are unknown, missing or wrongly typed. There is one line per problem.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Grid:
        ...     __pydantic_config__ = STRICT
        ...     values: tuple[float, ...]
        ...     limit: int | None = None
        >>> parse_dataclass(Grid, {"values": [1, 0.5]}, "grid")
        Grid(values=(1.0, 0.5), limit=None)
        >>> parse_dataclass(Grid, {"value": 1, "limit": "many"}, "grid")
        Traceback (most recent call last):
        sparsedial.errors.SpecError: 3 problems:
          - grid: values is missing
          - grid: limit: expected a whole number, got text 'many'
          - grid: unknown key 'value', perhaps 'values'; known keys: values, limit
    """
    try:
        text = json.dumps(data, default=repr)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"{source}: not plain data: {error}") from None
    try:
        # Pydantic's strict mode reads lists as tuples only from JSON.
        return cast("T", _adapter(cast("Any", record_type)).validate_json(text))
    except ValidationError as error:
        errors = error.errors()
    known_keys = [record_field.name for record_field in fields(cast("Any", record_type))]
    raise SpecError(format_problems([f"{source}: {_describe_error(details, known_keys)}" for details in errors]))


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one error that lists all problems, each once. Do nothing if there are none.

    Args:
        problems: One sentence or clause per problem.

    Raises:
        SpecError: There is at least one problem.
    """
    if problems:
        raise SpecError(format_problems(problems))


def format_problems(problems: Sequence[str]) -> str:
    """Return one message that lists all problems, each once.

    Args:
        problems: One sentence or clause per problem. There is at least one.

    Returns:
        The problem, or a count and one line per problem.
    """
    distinct = list(dict.fromkeys(problems))
    if len(distinct) == 1:
        return distinct[0]
    lines = [f"  - {problem}" for problem in distinct]
    return "\n".join([f"{len(distinct)} problems:", *lines])


@cache
def _adapter(record_type: type) -> TypeAdapter[Any]:
    return TypeAdapter(record_type)


def _describe_error(details: ErrorDetails, known_keys: Sequence[str]) -> str:
    """Return a description of one pydantic error, as one clause."""
    path = _format_path(details["loc"])
    kind = details["type"]
    if kind == "unexpected_keyword_argument":
        return _describe_unknown_key(path, known_keys)
    if kind == "missing":
        return f"{path} is missing"
    prefix = f"{path}: " if path else ""
    if kind == "value_error":
        return f"{prefix}{details['ctx']['error']}"
    if kind in EXPECTED_VALUES:
        return f"{prefix}expected {EXPECTED_VALUES[kind]}, got {describe_value(details['input'])}"
    return f"{prefix}{details['msg']}"


def _describe_unknown_key(key: str, known_keys: Sequence[str]) -> str:
    hint = ""
    matches = closest_names(key, known_keys)
    if matches:
        hint = f", perhaps {matches[0]!r}"
    return f"unknown key {key!r}{hint}; known keys: {', '.join(known_keys)}"


def _format_path(location: tuple[int | str, ...]) -> str:
    """Return the location of a value in nested data.

    >>> _format_path(("modules", "up")), _format_path(("values", 1))
    ('modules.up', 'values[1]')
    """
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif path:
            path += f".{part}"
        else:
            path = part
    return path


def describe_value(value: object) -> str:
    """Return a short description of a value, for an error message.

    Args:
        value: A value of a JSON or YAML file.

    Returns:
        A noun phrase for an error message.

    Example:
        >>> describe_value("many"), describe_value(1.5), describe_value([1]), describe_value(None)
        ("text 'many'", '1.5', 'a list', 'nothing')
    """
    if value is None:
        return "nothing"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, Mapping):
        return "keys and values"
    text = repr(value)
    if len(text) >= MAX_QUOTED_LENGTH:
        text = f"{text[: MAX_QUOTED_LENGTH - 3]}..."
    if isinstance(value, str):
        return f"text {text}"
    return text
