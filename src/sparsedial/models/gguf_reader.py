"""Faster readers of GGUF files than those of the package `gguf`, which need a minute for a large vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType

STRING_LENGTH_BYTES = 8
ARRAY_HEADER_BYTES = 12  # type of the elements (4 bytes) and their number (8 bytes)


class PlainArrayReader(GGUFReader):
    """Reader that accesses the file as a plain numpy array.

    The class of the original array, `numpy.memmap`, makes each of the millions of slices several times slower.
    """

    @property
    def data(self) -> Any:
        """Content of the file, uint8, mapped into memory."""
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self._data = value.view(np.ndarray)


class TensorTableReader(PlainArrayReader):
    """Reader that skips the elements of arrays in the metadata, such as the vocabulary. It reads the tensors as usual.

    The length of an array is checked only against the end of the file.
    """

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        element_type = GGUFValueType(self._get(orig_offs, np.uint32)[0])
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        start = orig_offs + ARRAY_HEADER_BYTES
        if element_type in self.gguf_scalar_to_np:
            end = start + count * np.dtype(self.gguf_scalar_to_np[element_type]).itemsize
        else:
            end = self._skip_elements(start, count, element_type)
        if end > len(self.data):
            raise ValueError("it ends within its metadata")
        return end - orig_offs, [], [], [GGUFValueType.ARRAY, element_type]

    def _skip_elements(self, start: int, count: int, element_type: GGUFValueType) -> int:
        """Return the offset after an array of strings or of arrays."""
        offset = start
        for _ in range(count):
            if offset >= len(self.data):
                raise ValueError("it ends within its metadata")
            if element_type == GGUFValueType.STRING:
                offset += STRING_LENGTH_BYTES + int(self._get(offset, np.uint64)[0])
            else:
                offset += self._get_field_parts(offset, element_type)[0]
        return offset


@contextmanager
def cache_lookups(path: Path) -> Iterator[GGUFReader]:
    """Let transformers read a GGUF file and the table of tensor names only once inside the ``with`` block.

    transformers reads the file for the configuration, for the weights and for the tokenizer, and builds the table for
    every module of the model.

    Args:
        path: A GGUF file, the only one that is read inside the block.

    Yields:
        GGUFReader: The reader.
    """
    reader = PlainArrayReader(path)
    replacements = {
        "GGUFReader": lambda *args, **kwargs: reader,
        "get_tensor_name_map": lru_cache(gguf.get_tensor_name_map),
    }
    originals = {name: getattr(gguf, name) for name in replacements}
    try:
        _set_attributes(gguf, replacements)
        yield reader
    finally:
        _set_attributes(gguf, originals)


def _set_attributes(owner: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(owner, name, value)
