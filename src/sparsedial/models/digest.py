"""SHA-256 digests of the files that make up a model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from sparsedial.files import file_sha256

# These files can change a measured value: weights, configuration, tokenizer, chat template, code.
DIGESTED_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py")


def digest_folders(folders: Iterable[Path]) -> str:
    """Return one SHA-256 for all model files in the given folders.

    The digest covers the names and contents of the files that match `DIGESTED_FILES`. It does not depend on the paths
    of the folders.

    Args:
        folders: Folders with weights, configuration, tokenizer or modeling code. Subfolders are not read.

    Returns:
        The digest in hexadecimal.
    """
    files: set[Path] = set()
    for folder in folders:
        for pattern in DIGESTED_FILES:
            files.update(folder.glob(pattern))
    names_and_digests = [(file.name, model_file_sha256(file)) for file in sorted(files, key=lambda file: file.name)]
    return hashlib.sha256(json.dumps(names_and_digests).encode()).hexdigest()


def model_file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, without reading it if it links to a file that is named by its SHA-256.

    Args:
        path: A file, or a symbolic link into the cache of `huggingface_hub`.

    Returns:
        The digest in hexadecimal.
    """
    target_name = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", target_name):
        return target_name
    return file_sha256(path)
