"""JSON values in the cells of tables, as they are read from CSV files."""

from __future__ import annotations

import json


def parse_whole_numbers(text: object) -> list[int] | None:
    """Return the numbers of a JSON list of whole numbers, or None for anything else.

    Args:
        text: The cell.

    Example:
        >>> parse_whole_numbers("[0, 1]"), parse_whole_numbers("[0.5]"), parse_whole_numbers("all")
        ([0, 1], None, None)
    """
    if not isinstance(text, str) or not text.startswith("["):
        return None
    try:
        numbers = json.loads(text)
    except ValueError:
        return None
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        return None
    return numbers
