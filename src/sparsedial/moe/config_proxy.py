"""Replacement for the ``config`` of a module that stacks experts. Importing it does not import transformers."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsedial.moe.experts_forward import TransformFunctions

IMPLEMENTATION_NAME = "sparsedial"


class ConfigProxy:
    """Replacement for the ``config`` of a module that stacks experts, which makes it call `experts_forward`.

    All other attributes are read from the original configuration.

    Args:
        config: The original configuration.

    Attributes:
        config: The original configuration.
        transforms: Maps the name of a vector to its transformation.
    """

    _experts_implementation = IMPLEMENTATION_NAME

    def __init__(self, config: Any) -> None:
        self.config = config
        self.transforms: dict[str, TransformFunctions] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return a copy of the original configuration: a copy of the model is not changed."""
        return deepcopy(self.config, memo)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "config":  # `copy` reads these before `config` is set.
            raise AttributeError(name)
        return getattr(self.config, name)
