"""Identity of a loaded model: all its properties that change a measured value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sparsedial.models.kind import CAUSAL


@dataclass(frozen=True)
class ModelIdentity:
    """Identity of a loaded model: all its properties that change a measured value.

    Attributes:
        weights: SHA-256 of the weights, the configuration and the tokenizer, in hexadecimal.
        dtype: Name of the torch dtype of the weights, such as "bfloat16".
        trust_remote_code: True if modeling code that comes with the model was executed.
        kind: One of `sparsedial.models.kind.KINDS`. Defaults to "causal".
        mask_token: Token ID of the mask of a masked diffusion model. Defaults to None.

    Example:
        >>> identity = ModelIdentity(weights="ab12", dtype="float32")
        >>> ModelIdentity.from_json(identity.to_json()) == identity
        True
    """

    weights: str
    dtype: str
    trust_remote_code: bool = False
    kind: str = CAUSAL
    mask_token: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the identity as a dictionary that `from_json` accepts."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelIdentity:
        """Create an identity from a dictionary that `to_json` returned.

        Args:
            data: An object as returned by `to_json`.

        Returns:
            The identity.
        """
        return cls(**data)
