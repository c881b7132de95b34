"""The fused fast path of torch.nn.TransformerEncoder, which does not call the modules inside a layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsedial.ffn.feed_forward import VectorOwner
from sparsedial.hooks.reach_check import list_ancestors


class NestedTensorSwitch:
    """Patch that makes an encoder pass plain tensors to its layers, until `remove` is called.

    An encoder with padding passes nested tensors to the fused fast path. They have no entries for padding.

    Args:
        encoder: The encoder.
    """

    def __init__(self, encoder: nn.TransformerEncoder) -> None:
        self._encoder = encoder
        self._was_used = getattr(encoder, "use_nested_tensor", False)
        if self._was_used:
            encoder.use_nested_tensor = False

    def remove(self) -> None:
        """Restore the encoder."""
        if self._was_used:
            self._encoder.use_nested_tensor = True


def turn_off_fast_path(ffn: VectorOwner, model: nn.Module) -> Iterator[RemovableHandle | NestedTensorSwitch]:
    """Make the encoder that contains an FFN call its modules.

    Args:
        ffn: The FFN, or projections outside of the FFNs.
        model: The model that contains it.

    Yields:
        RemovableHandle | NestedTensorSwitch: Handle that restores the encoder. Nothing if the FFN is in none.
    """
    for module in list_ancestors(model, ffn.name):
        if isinstance(module, nn.TransformerEncoder):
            yield NestedTensorSwitch(module)
        elif isinstance(module, nn.TransformerEncoderLayer):
            # A layer does not take the fast path if any module inside it has a hook.
            yield ffn.anchor.register_forward_pre_hook(_leave_unchanged)


def _leave_unchanged(*_: Any) -> None:
    """Forward pre-hook without effect."""
