"""Downloads from the Hugging Face Hub, with errors that name the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsedial.errors import ModelError
from sparsedial.models.model_aliases import describe_accepted_names
from sparsedial.models.offline_mode import is_offline

DOWNLOADED_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")


def download_config(hub_id: str) -> Path:
    """Download only the configuration of a model, to check that the model exists.

    Args:
        hub_id: Model ID on the hub.

    Returns:
        The path of ``config.json`` in the hub's cache.

    Raises:
        ModelError: The hub cannot be reached, or the user has no access to a model of this name.
    """
    from huggingface_hub import hf_hub_download

    with _convert_hub_errors(hub_id):
        return Path(hf_hub_download(hub_id, "config.json", local_files_only=is_offline()))


def download_model(hub_id: str, *, trust_remote_code: bool) -> Path:
    """Download the weights, the configuration and the tokenizer of a model. Pickled weights are not downloaded.

    Args:
        hub_id: Model ID on the hub.
        trust_remote_code: If True, also download the Python files of the model.

    Returns:
        The folder of the model in the hub's cache.

    Raises:
        ModelError: The hub cannot be reached, or the user has no access to a model of this name.
    """
    from huggingface_hub import snapshot_download

    patterns = list(DOWNLOADED_FILES)
    if trust_remote_code:
        patterns.append("*.py")
    with _convert_hub_errors(hub_id):
        return Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=is_offline()))


@contextmanager
def _convert_hub_errors(hub_id: str) -> Iterator[None]:
    """Replace any error that is raised inside the `with` block with a `ModelError` that names the model."""
    from huggingface_hub.errors import GatedRepoError

    try:
        yield
    except Exception as error:  # huggingface_hub has many unrelated classes of errors.
        lines = str(error).strip().splitlines() or ["no reason was stated"]
        reason = f"{type(error).__name__}: {lines[0]}"
        if isinstance(error, GatedRepoError):
            raise ModelError(
                f"model {hub_id!r}: gated on the model hub ({reason}). Request access on "
                f"https://huggingface.co/{hub_id} and log in (hf auth login)."
            ) from error
        raise ModelError(
            f"model {hub_id!r}: not a local file or directory, and it could not be downloaded from the model hub "
            f"({reason}). {describe_accepted_names(hub_id)}"
        ) from error
