"""Parsing of options that hold several values.

Each parser appends to a list of problems instead of raising, so that all problems of a command are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sparsedial.study.value_grids import VALUE_GRIDS, find_value_grid


def split_names(*texts: str) -> tuple[str, ...]:
    """Split comma-separated names.

    Args:
        *texts: The texts of an option that can be repeated.

    Returns:
        The names, without surrounding spaces and empty names.

    Example:
        >>> split_names("arc_easy, piqa,", "boolq")
        ('arc_easy', 'piqa', 'boolq')
    """
    names = []
    for piece in ",".join(texts).split(","):
        if piece.strip():
            names.append(piece.strip())
    return tuple(names)


def parse_numbers(texts: Sequence[str], option: str, problems: list[str]) -> tuple[float, ...]:
    """Parse comma-separated numbers.

    Args:
        texts: The texts of an option that can be repeated.
        option: The option, for error messages.
        problems: Receives one line for each text that is not a number.

    Returns:
        The numbers.

    Example:
        >>> parse_numbers(["0.9,0.5", "0.1"], "--p", [])
        (0.9, 0.5, 0.1)
    """
    numbers = []
    for text in split_names(*texts):
        try:
            numbers.append(float(text))
        except ValueError:
            problems.append(f"{option} {text!r}: not a number; expected numbers such as 0.9")
    return tuple(numbers)


def parse_values(texts: Sequence[str], option: str, problems: list[str]) -> tuple[float, ...]:
    """Parse comma-separated values of a rule's parameter, or the name of a grid.

    Args:
        texts: The texts of an option that can be repeated.
        option: The option, for error messages.
        problems: Receives one line for each text that is neither a number nor the name of a grid.

    Returns:
        The values.

    Example:
        >>> parse_values(["0.9,0.5"], "--p", []), len(parse_values(["paper"], "--p", []))
        ((0.9, 0.5), 26)
    """
    names = split_names(*texts)
    if len(names) == 1 and names[0] in VALUE_GRIDS:
        return find_value_grid(names[0])
    return parse_numbers(texts, option, problems)


def parse_layers(texts: Sequence[str] | None, option: str, problems: list[str]) -> tuple[int, ...] | None:
    """Parse layer indices and ranges.

    Args:
        texts: The texts of an option that can be repeated. None if it was not given.
        option: The option, for error messages.
        problems: Receives a line if the text is malformed.

    Returns:
        The indices in ascending order. None if the option was not given or is malformed.

    Example:
        >>> parse_layers(["0,3", "5-7"], "--layers", [])
        (0, 3, 5, 6, 7)
    """
    if not texts:
        return None
    text = ",".join(texts)
    layers: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", piece)
        if not match:
            problems.append(f"{option} {text!r}: expected numbers and ranges, such as 0,3,5-9")
            return None
        first = int(match[1])
        last = int(match[2] or match[1])
        if last < first:
            problems.append(f"{option} {text!r}: {piece.strip()!r} ends before it starts, expected {last}-{first}")
            return None
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def parse_pairs(texts: Sequence[str] | None, option: str, problems: list[str]) -> dict[str, str] | None:
    """Parse entries of the form NAME=VALUE.

    Args:
        texts: The texts of an option that can be repeated. None if it was not given.
        option: The option, for error messages.
        problems: Receives one line for each malformed entry.

    Returns:
        The values by their names. None if the option was not given.

    Example:
        >>> parse_pairs(["up=w1", "down=w2"], "--ffn", [])
        {'up': 'w1', 'down': 'w2'}
    """
    if not texts:
        return None
    pairs: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value:
            problems.append(f"{option} {text!r}: expected NAME=VALUE")
        elif pairs.setdefault(name, value) != value:
            problems.append(f"{option} {text!r}: {name} is {pairs[name]!r} already. Give it once.")
    return pairs


def parse_batch(text: str | None, option: str, problems: list[str]) -> int | None:
    """Parse a number of rows per forward pass.

    Args:
        text: The text of the option. None if it was not given.
        option: The option, for error messages.
        problems: Receives a line if the text is neither a number nor ``auto``.

    Returns:
        The number. None if it is chosen automatically.

    Example:
        >>> parse_batch("16", "--batch", []), parse_batch("auto", "--batch", [])
        (16, None)
    """
    if text is None or text == "auto":
        return None
    if not re.fullmatch(r"\d{1,9}", text) or int(text) == 0:
        problems.append(f"{option} {text!r}: expected a whole number of at least 1, or auto")
        return None
    return int(text)


def parse_switch(text: str | None) -> bool | str | None:
    """Parse an option that is on, off, or something else.

    Args:
        text: The text of the option. None if it was not given.

    Returns:
        True for ``on`` or ``true``, False for ``off`` or ``false``, and any other text unchanged.

    Example:
        >>> parse_switch("on"), parse_switch("off"), parse_switch("auto"), parse_switch(None)
        (True, False, 'auto', None)
    """
    return {"on": True, "true": True, "off": False, "false": False}.get(text or "", text)
