"""A rule that keeps no set of entries."""

from dataclasses import dataclass
from typing import ClassVar

from sparsedial.rules import Rule


@dataclass(frozen=True)
class CustomRule(Rule):
    """A user's own subclass of `Rule`."""

    name: ClassVar[str] = "custom"
    dense_value: ClassVar[float] = 1.0

    @property
    def value(self) -> float:
        """The rule parameter."""
        return 0.5
