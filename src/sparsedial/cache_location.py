"""The folder where downloaded and converted models are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from sparsedial.errors import StorageError


def cache_folder(name: str) -> Path:
    """Return a folder of the model cache, created if necessary.

    The environment variable ``SPARSEDIAL_CACHE`` sets the directory of the cache. If it is not set, the directory is
    ``~/.cache/sparsedial``.

    Args:
        name: Name of the folder inside the cache, such as "wheels".

    Returns:
        An existing folder.

    Raises:
        StorageError: The folder cannot be created.
    """
    root = os.environ.get("SPARSEDIAL_CACHE") or Path.home() / ".cache" / "sparsedial"
    folder = Path(root) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: {error.strerror}: the folder of the model cache cannot be created. "
            "Set SPARSEDIAL_CACHE to a writable directory."
        ) from None
    return folder
