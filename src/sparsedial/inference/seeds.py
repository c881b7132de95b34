"""Random seeds that are derived from given objects."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """Return a seed that depends only on the given objects and is the same on every machine.

    Args:
        *parts: Objects whose `repr` determines the seed.

    Returns:
        A non-negative 63-bit integer.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 1
