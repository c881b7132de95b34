"""The zoo: small trained models of every kind that come with the package, by name.

``zoo:dense-5m`` is one of them wherever a model is asked for. `corpus`, `recipes` and `train` made them.

>>> names()
['dense-0.4m', 'dense-1.3m', 'dense-16m', 'dense-5m', 'diffusion-1.3m', 'moe-5m']
>>> sorted(path.name for path in find("zoo:dense-0.4m").glob("*.safetensors"))
['model.safetensors']
"""

from __future__ import annotations

import json
from pathlib import Path

from sparsedial.disk import sha256
from sparsedial.errors import ModelError

PREFIX = "zoo:"
HELD_OUT = Path(__file__).parent / "heldout.jsonl"
"""Documents of the corpus that no model of the zoo was trained on, one JSON object with ``text`` a line."""

_MODELS = Path(__file__).parent / "models"
_MANIFEST = Path(__file__).parent / "manifest.json"  # model -> file -> sha256


def names() -> list[str]:
    """The models there are."""
    return sorted(_manifest())


def find(name: str) -> Path:
    """The folder of a model, its files checked.

    Args:
        name: with or without ``zoo:``.

    Raises:
        ModelError: there is no such model (the message lists those there are), or a file of it is missing or
            damaged (the message names the file and the sha256 it should have).

    >>> find("zoo:dense-7b")
    Traceback (most recent call last):
    ...
    sparsedial.errors.ModelError: model 'zoo:dense-7b': not in the zoo. Expected one of: zoo:dense-0.4m, ...
    """
    manifest = _manifest()
    files = manifest.get(name.removeprefix(PREFIX))
    if files is None:
        listed = ", ".join(PREFIX + known for known in sorted(manifest))
        raise ModelError(f"model {name!r}: not in the zoo. Expected one of: {listed}.")
    folder = _MODELS / name.removeprefix(PREFIX)
    for file, expected in files.items():
        path = folder / file
        seen = f"sha256 {sha256(path)}" if path.is_file() else "no such file"
        if seen != f"sha256 {expected}":
            raise ModelError(
                f"model {name!r}: {path}: {seen}, expected sha256 {expected}. Install sparsedial again, or check the "
                "file out again."
            )
    return folder


def write_manifest() -> None:
    """Write down the sha256 of every file of every model that is there: done once, when they are made."""
    manifest = {
        folder.name: {f.name: sha256(f) for f in sorted(folder.iterdir()) if f.name != "training.jsonl"}
        for folder in sorted(_MODELS.iterdir())
    }
    _MANIFEST.write_text(json.dumps(manifest, indent=1) + "\n")


def _manifest() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(_MANIFEST.read_text())
    return found
