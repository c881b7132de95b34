"""Key-value cache of a batch whose rows begin and end at different times.

Each row of the batch is a slot. The token at position t of a text is stored in column t of its slot, so no row has
padding before its first token, and a new text can take the slot of a text that has ended. The memory is allocated once
and never moves, so the forward passes of decoding can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class _SlotRange:
    """Slots and columns that the next forward pass reads and writes.

    Attributes:
        first_slot: First slot.
        slots: Number of slots.
        columns: Number of columns.
        positions: Column of the new token of each slot, int64 of shape [slots]. None if the new tokens are the first
            ones of their texts.
    """

    first_slot: int = 0
    slots: int = 0
    columns: int = 0
    positions: torch.Tensor | None = None


class SlotCache(Cache):
    """Cache with a fixed number of slots and columns.

    Call `start_prompts` or `start_decoding` before each forward pass.

    Args:
        layers: Number of layers of the model.
        slots: Number of texts that it can hold at the same time.
        columns: Maximum number of tokens of a text.
    """

    def __init__(self, layers: int, slots: int, columns: int) -> None:
        self.columns = columns
        self._range = _SlotRange()
        self._slot_layers = [_SlotLayer(self._range, slots, columns) for _ in range(layers)]
        super().__init__(layers=list(self._slot_layers))

    def start_prompts(self, first_slot: int, slots: int, columns: int) -> None:
        """Prepare a forward pass that reads the prompts of new texts, padded on the right.

        Args:
            first_slot: Slot of the first text.
            slots: Number of texts.
            columns: Number of tokens of the longest prompt.
        """
        self._set_range(first_slot, slots, columns, None)

    def start_decoding(self, slots: int, columns: int, positions: torch.Tensor) -> None:
        """Prepare a forward pass that reads one token of each of the first slots.

        Args:
            slots: Number of slots.
            columns: Number of columns to attend to.
            positions: Column of each token, int64 of shape [slots].
        """
        self._set_range(0, slots, columns, positions)

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy the tokens of one slot to another slot.

        Args:
            source: Slot to copy.
            target: Slot to overwrite.
            columns: Number of tokens.
        """
        for layer in self._slot_layers:
            if layer.is_initialized:
                layer.keys[target, :, :columns] = layer.keys[source, :, :columns]
                layer.values[target, :, :columns] = layer.values[source, :, :columns]

    def count_bytes_per_token(self) -> int:
        """Return the number of bytes of one token in all layers that were used."""
        count = 0
        for layer in self._slot_layers:
            if layer.is_initialized:
                for tensor in (layer.keys, layer.values):
                    count += tensor[0, :, 0].numel() * tensor.element_size()
        return count

    def _set_range(self, first_slot: int, slots: int, columns: int, positions: torch.Tensor | None) -> None:
        self._range.first_slot = first_slot
        self._range.slots = slots
        self._range.columns = columns
        self._range.positions = positions


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, each of shape [slots, heads, columns, head size]."""

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, slot_range: _SlotRange, slots: int, columns: int) -> None:
        super().__init__()
        self._range = slot_range
        self._slots = slots
        self._columns = columns

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the memory. It is set to zero, because a NaN that is masked out still makes the attention NaN.

        Args:
            key_states: Keys, shape [rows, heads, tokens, head size].
            value_states: Values, shape [rows, heads, tokens, head size].
        """
        self.dtype = key_states.dtype
        self.device = key_states.device
        self.keys = self._allocate(key_states)
        self.values = self._allocate(value_states)
        self._slot_indices = torch.arange(self._slots, device=self.device)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the keys and values of the new tokens, and return those that the new tokens attend to.

        Args:
            key_states: Keys of the new tokens, shape [rows, heads, tokens, head size].
            value_states: Their values, of the same shape except for the head size.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        slots = slice(self._range.first_slot, self._range.first_slot + self._range.slots)
        columns = self._range.columns
        positions = self._range.positions
        if positions is None:
            self.keys[slots, :, :columns] = key_states
            self.values[slots, :, :columns] = value_states
            return key_states, value_states
        rows = self._slot_indices[: self._range.slots]
        positions = positions.to(self.device)
        self.keys[rows, :, positions] = key_states[:, :, 0]
        self.values[rows, :, positions] = value_states[:, :, 0]
        return self.keys[slots, :, :columns], self.values[slots, :, :columns]

    def get_seq_length(self) -> int:
        """Return the number of tokens before those of the next forward pass, in the longest text."""
        if self._range.positions is None:
            return 0
        return self._range.columns - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns to attend to, and the first one.

        Args:
            query_length: Number of new tokens per row.
        """
        if self._range.positions is None:
            return query_length, 0
        return self._range.columns, 0

    def get_max_length(self) -> int:
        """Return the number of columns."""
        return self._columns

    def get_max_cache_shape(self) -> int:
        """Return the number of columns, for versions of transformers that have this name for it."""
        return self._columns

    def _allocate(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_zeros(self._slots, states.shape[1], self._columns, states.shape[3])
