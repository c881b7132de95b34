"""Calibrations: numbers that a rule has computed from a model before it is applied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Calibration:
    """Numbers that a rule needs in addition to a vector, such as one threshold for each layer.

    Attributes:
        values: Plain JSON: dictionaries with text keys, lists, text, finite numbers, booleans and None.

    Example:
        >>> Calibration({"thresholds": [0.1, 0.25]}).digest[:8]
        '2d71d2f8'
    """

    values: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the values, in hexadecimal. It is part of the key of a trial."""
        text = json.dumps(dict(self.values), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()
