"""The callback that receives messages about long operations, such as downloads and conversions."""

from __future__ import annotations

from collections.abc import Callable

Log = Callable[[str], None]


def discard_message(message: str) -> None:
    """Ignore a message. This is the default wherever a `Log` is accepted.

    Args:
        message: One line of text.
    """
