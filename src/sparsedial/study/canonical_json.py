"""Canonical JSON: equal data gives equal text, and so an equal SHA-256."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def to_canonical_json(data: Any) -> str:
    """Return JSON with sorted keys, no spaces and no NaN, so that equal data gives equal text.

    Args:
        data: Dictionaries, lists, strings, numbers, booleans and None.

    Returns:
        The text.

    Example:
        >>> to_canonical_json({"b": 1.5, "a": [True, None]})
        '{"a":[true,null],"b":1.5}'
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def json_digest(data: Any) -> str:
    """Return the SHA-256 of the canonical JSON, in hexadecimal.

    Args:
        data: Anything that `to_canonical_json` accepts.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(to_canonical_json(data).encode()).hexdigest()
