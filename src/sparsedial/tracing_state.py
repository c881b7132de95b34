"""Whether the tracing that finds FFNs is running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_tracing = False


def is_tracing() -> bool:
    """Return True inside a `tracing` block, where attached sparsifiers leave the forward pass unchanged."""
    return _tracing


@contextmanager
def tracing() -> Iterator[None]:
    """Mark the forward passes inside the `with` block as part of the tracing that finds FFNs.

    Yields:
        None: Nothing.
    """
    global _tracing
    previous = _tracing
    _tracing = True
    try:
        yield
    finally:
        _tracing = previous
