"""Writes the manifest of the zoo package: the SHA-256 of every file, which is checked when a model is loaded.

    python -m tools.zoo.manifest

Run it after a model of the package has been added or replaced.
"""

from __future__ import annotations

import json
from pathlib import Path

from sparsedial.files import file_sha256, write_atomically
from sparsedial.models.zoo_package import MANIFEST_NAME, Manifest, zoo_folder

UNCHECKED_FILES = ("training.jsonl",)  # they have no influence on the model


def write_manifest(folder: Path) -> Manifest:
    """Write ``manifest.json`` for the models and the tokenizer in a folder.

    Args:
        folder: Folder with the layout of the zoo package: ``models/<name>/`` and ``tokenizer/``.

    Returns:
        The manifest.
    """
    models = {}
    for model_folder in sorted((folder / "models").iterdir()):
        models[model_folder.name] = _digest_files(model_folder)
    manifest = Manifest(tokenizer=_digest_files(folder / "tokenizer"), models=models)
    text = json.dumps(manifest.to_json(), indent=1) + "\n"
    write_atomically(folder / MANIFEST_NAME, text.encode(), replace=True)
    return manifest


def _digest_files(folder: Path) -> dict[str, str]:
    digests = {}
    for file in sorted(folder.iterdir()):
        if file.name not in UNCHECKED_FILES:
            digests[file.name] = file_sha256(file)
    return digests


if __name__ == "__main__":
    write_manifest(zoo_folder())
