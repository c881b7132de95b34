"""The error of a check that fails."""

from __future__ import annotations


def expect(condition: object, message: str) -> None:
    """Raise an error if a condition is not true. Unlike an assert statement, this works with ``python -O`` as well.

    Args:
        condition: The condition.
        message: What was seen and what was expected.

    Raises:
        AssertionError: The condition is not true.
    """
    if not condition:
        raise AssertionError(message)
