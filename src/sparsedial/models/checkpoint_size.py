"""The number of parameters of a checkpoint, read from the headers of its files."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

HEADER_LENGTH_BYTES = 8
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def count_stored_parameters(folder: Path) -> int:
    """Return the number of parameters in the safetensors files that transformers loads. No weight is read.

    Some folders hold the same weights again in other files, such as ``consolidated.safetensors``.

    Args:
        folder: Folder of a model whose files `check_model_exists` accepts.
    """
    total = 0
    for path in _find_weight_files(folder):
        for name, entry in _read_header(path).items():
            if name != "__metadata__":
                total += math.prod(entry["shape"])
    return total


def _find_weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights: one file, else those in the index, else all."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if (folder / INDEX_FILE).is_file():
        names = set(json.loads((folder / INDEX_FILE).read_text())["weight_map"].values())
        return [folder / name for name in sorted(names) if (folder / name).is_file()]
    return list(folder.glob("*.safetensors"))


def _read_header(path: Path) -> dict[str, dict[str, list[int]]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(HEADER_LENGTH_BYTES))
        header: dict[str, dict[str, list[int]]] = json.loads(file.read(length))
    return header
