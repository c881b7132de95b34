"""A frozen dataclass out of plain JSON or YAML, checked against its type hints: all problems at once."""

from __future__ import annotations

import difflib
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from sparsedial.errors import SpecError

T = TypeVar("T")

WORDS = {str: "text", float: "a number", int: "a whole number", bool: "true or false"}


def typed(cls: type[T], data: Any, what: str) -> T:
    """``cls(**data)``, where lists become tuples, whole numbers become floats and nested objects dataclasses.

    Args:
        cls: a dataclass of text, numbers, booleans, tuples or dictionaries of these, dataclasses, or None.
        data: a dictionary. what: what it is, for messages.

    Raises:
        SpecError: every unknown, missing or wrongly typed field, a line each.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Grid:
    ...     values: tuple[float, ...]
    ...     limit: int | None = None
    >>> typed(Grid, {"values": [1, 0.5]}, "grid")
    Grid(values=(1.0, 0.5), limit=None)
    >>> typed(Grid, {"value": 1, "limit": "many"}, "grid")
    Traceback (most recent call last):
    sparsedial.errors.SpecError: 3 problems:
      - grid: unknown key 'value', perhaps 'values'; there are values, limit
      - grid: limit: expected a whole number, got text 'many'
      - grid: values is missing
    """
    problems: list[str] = []
    built = _build(cls, data, what, problems)
    complain(problems)
    return cast("T", built)


def complain(problems: list[str]) -> None:
    """Raise `SpecError` with every problem, if there is one.

    Raises:
        SpecError: one line for each.
    """
    if problems:
        listed = "\n".join(f"  - {line}" for line in dict.fromkeys(problems))
        raise SpecError(problems[0] if len(problems) == 1 else f"{len(problems)} problems:\n{listed}")


def _build(cls: type, data: Any, what: str, problems: list[str]) -> Any:
    if not isinstance(data, dict):
        problems.append(f"{what}: expected keys and values, got {_seen(data)}")
        return None
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    values = {}
    before = len(problems)
    for key, value in data.items():
        if key in known:
            values[key] = _convert(hints[key], value, f"{what}: {key}", problems)
            continue
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f", perhaps {close[0]!r}" if close else ""
        problems.append(f"{what}: unknown key {str(key)!r}{hint}; there are {', '.join(known)}")
    for name, f in known.items():
        if name not in data and f.default is MISSING and f.default_factory is MISSING:
            problems.append(f"{what}: {name} is missing")
    return None if len(problems) > before else cls(**values)


def _convert(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    choices = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in choices:
        return None
    wanted = next(c for c in choices if c is not NoneType)
    inner = get_args(wanted)
    if is_dataclass(wanted):
        return _build(cast("type", wanted), value, where, problems)
    if get_origin(wanted) is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(inner[0], v, f"{where}[{i}]", problems) for i, v in enumerate(value))
        problems.append(f"{where}: expected a list, got {_seen(value)}")
    elif get_origin(wanted) is dict:
        if isinstance(value, dict):
            return {
                _convert(inner[0], k, where, problems): _convert(inner[1], v, f"{where}.{k}", problems)
                for k, v in value.items()
            }
        problems.append(f"{where}: expected keys and values, got {_seen(value)}")
    elif isinstance(value, bool) == (wanted is bool) and isinstance(value, (int, float) if wanted is float else wanted):
        return wanted(value)
    else:
        problems.append(f"{where}: expected {WORDS[wanted]}, got {_seen(value)}")
    return None


def _seen(value: Any) -> str:
    kinds = {str: "text", bool: "", int: "", float: "", list: "a list", dict: "keys and values", NoneType: "nothing"}
    kind = kinds.get(type(value), type(value).__name__)
    if isinstance(value, list | dict | NoneType):
        return kind
    text = repr(value)
    return f"{kind} {text if len(text) < 60 else text[:57] + '...'}".strip()
