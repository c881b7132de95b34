"""The zoo: small trained models in the data package `sparsedial_zoo`, which are found by name.

A name such as ``zoo:dense-5m`` is accepted wherever a model name is expected.

>>> model_names()
['dense-0.4m', 'dense-1.3m', 'dense-5m', 'diffusion-1.3m', 'moe-5m', 'thinking-0.8m']
>>> sorted(path.name for path in find_model_folder("zoo:dense-0.4m").glob("*.safetensors"))
['model.safetensors']
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsedial.errors import ModelError
from sparsedial.files import file_sha256
from sparsedial.suggestions import list_known

PREFIX = "zoo:"
INSTALL_HINT = "Install the zoo: pip install sparsedial-zoo (in a checkout of sparsedial: pip install ./packages/zoo)."
MANIFEST_NAME = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Manifest:
    """The expected SHA-256 of every file of the zoo, as stored in ``manifest.json``.

    Attributes:
        tokenizer: SHA-256 of each file of the tokenizer that most models share, in hexadecimal, by file name.
        models: SHA-256 of each file of each model, in hexadecimal, by model name and file name.
    """

    tokenizer: Mapping[str, str]
    models: Mapping[str, Mapping[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as a dictionary that `from_json` accepts."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Create a manifest from a dictionary that `to_json` returned.

        Args:
            data: An object as returned by `to_json`.

        Returns:
            The manifest.
        """
        return cls(**data)


def zoo_folder() -> Path:
    """Return the folder of the installed zoo package.

    Returns:
        A folder with ``manifest.json``, ``models`` and ``tokenizer``.

    Raises:
        ModelError: The package `sparsedial_zoo` is not installed.
    """
    try:
        import sparsedial_zoo
    except ImportError:
        raise ModelError(f"The package sparsedial-zoo is not installed. {INSTALL_HINT}") from None
    return sparsedial_zoo.FOLDER


def read_manifest() -> Manifest:
    """Return the manifest of the installed zoo package.

    Returns:
        The names and the expected digests of all files.

    Raises:
        ModelError: The package `sparsedial_zoo` is not installed.
    """
    return Manifest.from_json(json.loads((zoo_folder() / MANIFEST_NAME).read_text()))


def held_out_documents_path() -> Path:
    """Return the path of the held-out documents, on which no model of the zoo was trained.

    Returns:
        Path of a file with one JSON object per line, each with the key ``text``.

    Raises:
        ModelError: The package `sparsedial_zoo` is not installed.
    """
    return zoo_folder() / "heldout.jsonl"


def lm_eval_tasks_folder() -> Path | None:
    """Return the folder with the tasks of the zoo that lm-eval defines, or None if the zoo is not installed."""
    try:
        folder = zoo_folder() / "tasks"
    except ModelError:
        return None
    return folder if folder.is_dir() else None


def model_names() -> list[str]:
    """Return the names of the models in the zoo, or an empty list if the zoo is not installed."""
    try:
        return sorted(read_manifest().models)
    except ModelError:
        return []


def find_model_folder(name: str) -> Path:
    """Return the folder of a model after checking its files.

    Args:
        name: Name of the model, with or without the prefix ``zoo:``.

    Returns:
        A folder with the weights and the configuration.

    Raises:
        ModelError: The zoo is not installed, there is no such model, or one of its files is missing or damaged.

    >>> find_model_folder("zoo:dense-7b")
    Traceback (most recent call last):
    ...
    sparsedial.errors.ModelError: model 'zoo:dense-7b': not in the zoo. Expected one of: zoo:dense-0.4m, ...
    """
    models = read_manifest().models
    model_name = name.removeprefix(PREFIX)
    if model_name not in models:
        names = [PREFIX + known for known in sorted(models)]
        raise ModelError(f"model {name!r}: not in the zoo. Expected one of: {list_known(name, names)}")
    folder = zoo_folder() / "models" / model_name
    _check_files(f"model {name!r}", folder, models[model_name])
    return folder


def find_tokenizer_folder(name: str) -> Path:
    """Return the folder of a model's tokenizer, after checking the files of the tokenizer that the models share.

    Args:
        name: Name of a model in the zoo, with or without the prefix ``zoo:``.

    Returns:
        The folder of the model if it has a tokenizer of its own, otherwise that of the shared tokenizer.

    Raises:
        ModelError: The zoo is not installed, or a file of the shared tokenizer is missing or damaged.
    """
    manifest = read_manifest()
    model_name = name.removeprefix(PREFIX)
    if TOKENIZER_FILE in manifest.models[model_name]:
        return zoo_folder() / "models" / model_name
    folder = zoo_folder() / "tokenizer"
    _check_files("tokenizer of the zoo", folder, manifest.tokenizer)
    return folder


def _check_files(owner: str, folder: Path, expected_sha256: Mapping[str, str]) -> None:
    for file, expected in expected_sha256.items():
        path = folder / file
        if not path.is_file():
            problem = "no such file"
        elif (actual := file_sha256(path)) != expected:
            problem = f"sha256 {actual}"
        else:
            continue
        raise ModelError(
            f"{owner}: {path}: {problem}, expected sha256 {expected}. Reinstall sparsedial-zoo, or restore the file "
            "in the checkout of sparsedial."
        )
