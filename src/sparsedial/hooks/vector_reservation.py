"""Vectors that the attached sparsifiers change at present. No two of them change the same vector."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import nn

from sparsedial.errors import AttachError
from sparsedial.hooks.site_attachment import SparsifiedVector

# Names of the vectors by the anchor of their FFN or projections, and by the index of the expert if it stacks experts.
_reserved: WeakKeyDictionary[nn.Module, set[tuple[int | None, str]]] = WeakKeyDictionary()


def is_sparsified(model: nn.Module) -> bool:
    """Return True if a sparsifier is attached to a module of the model, or the model is accelerated.

    Args:
        model: The model.
    """
    return len(_reserved) > 0 and any(module in _reserved for module in model.modules())


def reserve_vectors(vectors: Sequence[SparsifiedVector]) -> None:
    """Reserve vectors for one sparsifier.

    Args:
        vectors: The vectors.

    Raises:
        AttachError: One of them is reserved already.
    """
    for vector in vectors:
        if (vector.ffn.expert, vector.name) in _reserved.get(vector.ffn.anchor, ()):
            raise AttachError(
                f"{vector.ffn.name} is already sparsified at {vector.name}, or accelerated at a site that skips "
                f"entries of {vector.name}. Leave that `with` block first, or call restore() if the model is "
                "accelerated, or choose another site."
            )
    for vector in vectors:
        _reserved.setdefault(vector.ffn.anchor, set()).add((vector.ffn.expert, vector.name))


def release_vectors(vectors: Sequence[SparsifiedVector]) -> None:
    """Release the vectors of a sparsifier that was removed.

    Args:
        vectors: The vectors that were reserved for it.
    """
    for vector in vectors:
        names = _reserved.get(vector.ffn.anchor, set())
        names.discard((vector.ffn.expert, vector.name))
        if not names:
            _reserved.pop(vector.ffn.anchor, None)
