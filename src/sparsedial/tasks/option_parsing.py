"""Check the options of tasks: their names, their types and their ranges."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from sparsedial.errors import SpecError
from sparsedial.suggestions import suggest
from sparsedial.tasks.batch_option import AUTOMATIC

OptionsT = TypeVar("OptionsT")

MAX_QUOTED_CHARACTERS = 60

INTERNAL: Mapping[str, Any] = MappingProxyType({"is_internal": True})
"""Metadata of a field that is no option, so that users cannot set it."""

NUMBERS_OF_EXAMPLES = {
    "sequences": "the number of examples of tasks that sample from the model",
    "limit": "the number of examples of tasks with a data set",
}
"""Options that set the number of examples. A task has at most one of them."""

EXPECTED_BY_ERROR_TYPE = {
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "float_type": "a number",
    "int_type": "a whole number",
    "string_type": "text",
}
"""Description of the expected type for each type of error that pydantic reports."""


def option_field_names(options_type: type[Any]) -> tuple[str, ...]:
    """Return the names of the options, which are the fields of a dataclass except for internal ones.

    Args:
        options_type: Dataclass that declares the options. Their names are in the order of its fields.
    """
    return tuple(option.name for option in fields(options_type) if "is_internal" not in option.metadata)


def parse_options(options_type: type[OptionsT], values: Mapping[str, Any], task_name: str) -> OptionsT:
    """Build the options of a task from plain JSON.

    Args:
        options_type: Frozen dataclass that declares the options, with a default for each.
        values: Options by name. An option that is missing or None keeps its default, and so does a batch that
            is ``auto``.
        task_name: Name of the task, for error messages.

    Returns:
        An instance of ``options_type``.

    Raises:
        SpecError: An option is unknown or has the wrong type (one line for each), or a value is out of range.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     limit: int | None = None
        ...     fraction: float = 0.5
        >>> parse_options(Options, {"limit": 3, "fraction": 1}, "count")
        Options(limit=3, fraction=1.0)
        >>> parse_options(Options, {"limits": 3, "fraction": "half"}, "count")
        Traceback (most recent call last):
        sparsedial.errors.SpecError: task 'count': unknown option 'limits': did you mean 'limit'? Its options are ...
        task option fraction: expected a number, got text 'half'
    """
    types = get_type_hints(options_type)
    known = option_field_names(options_type)
    arguments: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in values.items():
        if name not in known:
            hint = did_you_mean(name, known)
            problems.append(f"task {task_name!r}: unknown option {name!r}{hint} Its options are {', '.join(known)}.")
        elif value is not None and (name, value) != ("batch", AUTOMATIC):
            try:
                arguments[name] = TypeAdapter(types[name]).validate_python(value, strict=True)
            except ValidationError as error:
                problems.append(_describe_type_error(name, error))
    if problems:
        raise SpecError("\n".join(problems))
    return options_type(**arguments)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return a suffix for a message about an unknown option, which suggests a known option if there is a similar one.

    Args:
        name: The unknown option.
        known: Options that would be valid.

    Returns:
        The suggestion as a question after a colon, or a full stop if no known option is similar.

    Example:
        >>> did_you_mean("limits", ["limit", "length"]), did_you_mean("x", ["limit"])
        (": did you mean 'limit'?", '.')
        >>> did_you_mean("limit", ["sequences", "length"])
        ": did you mean 'sequences', the number of examples of tasks that sample from the model?"
    """
    for option, description in NUMBERS_OF_EXAMPLES.items():
        if name in NUMBERS_OF_EXAMPLES and option in known:
            return f": did you mean {option!r}, {description}?"
    question = suggest(name, known)
    return f": {question}" if question else "."


def check_at_least(task_name: str, minimum: int, **numbers: int | None) -> None:
    """Raise an error if a number is below its minimum.

    Args:
        task_name: Name of the task, for error messages.
        minimum: Smallest number allowed.
        **numbers: Numbers by the name of their option. None is allowed.

    Raises:
        SpecError: A number is too small (one line for each).

    >>> check_at_least("self_prediction", 1, sequences=64, batch=0)
    Traceback (most recent call last):
    sparsedial.errors.SpecError: self_prediction: batch=0: expected at least 1
    """
    problems = []
    for name, number in numbers.items():
        if number is not None and number < minimum:
            problems.append(f"{task_name}: {name}={number}: expected at least {minimum}")
    if problems:
        raise SpecError("\n".join(problems))


def _describe_type_error(option: str, error: ValidationError) -> str:
    """Return a message about the first element of an option that has the wrong type.

    If the option has alternative types, there is one error for each of them, whose location ends with the type.
    """
    first, *others = error.errors()
    location = list(first["loc"])
    expected = [_describe_expectation(first)]
    for other in others:
        if other["input"] is first["input"] and other["loc"][:-1] == first["loc"][:-1]:
            expected.append(_describe_expectation(other))
    if len(expected) > 1:
        location.pop()
    path = ".".join([option, *map(str, location)])
    return f"task option {path}: expected {', or '.join(expected)}, got {_describe_value(first['input'])}"


def _describe_expectation(detail: Mapping[str, Any]) -> str:
    """Return what one of pydantic's errors expected."""
    if detail["type"] == "literal_error":
        return str(detail["ctx"]["expected"])
    return EXPECTED_BY_ERROR_TYPE.get(detail["type"], detail["msg"])


def _describe_value(value: Any) -> str:
    """Return a short description of a value, for an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    if len(text) > MAX_QUOTED_CHARACTERS:
        text = text[: MAX_QUOTED_CHARACTERS - 3] + "..."
    if isinstance(value, str):
        return f"text {text}"
    return text
