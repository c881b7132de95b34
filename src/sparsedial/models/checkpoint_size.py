"""The number of parameters of a checkpoint, read from the headers of its files."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

HEADER_LENGTH_BYTES = 8


def count_stored_parameters(folder: Path) -> int:
    """Return the number of parameters in the safetensors files of a folder. No weight is read.

    Args:
        folder: Folder of a model whose files `check_model_exists` accepts.
    """
    total = 0
    for path in folder.glob("*.safetensors"):
        for name, entry in _read_header(path).items():
            if name != "__metadata__":
                total += math.prod(entry["shape"])
    return total


def _read_header(path: Path) -> dict[str, dict[str, list[int]]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(HEADER_LENGTH_BYTES))
        header: dict[str, dict[str, list[int]]] = json.loads(file.read(length))
    return header
