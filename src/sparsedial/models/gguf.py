"""GGUF files: checking them, and converting them to a directory of safetensors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from sparsedial.cache_location import cache_folder
from sparsedial.errors import ModelError
from sparsedial.files import file_sha256
from sparsedial.models.checkpoint_keys import check_checkpoint_keys
from sparsedial.models.gguf_tensors import check_gguf_tensors
from sparsedial.models.log_callback import Log, discard_message
from sparsedial.optional_packages import require_extra

CONVERSION_VERSION = 1  # Part of the digest of every converted file: increase it when the conversion changes.
MAGIC = b"GGUF"


def require_gguf(purpose: str) -> None:
    """Raise an error if the package that reads GGUF files is not installed.

    Args:
        purpose: What needs the package, such as a model.

    Raises:
        ModelError: The package is missing. The message has the command that installs it.
    """
    require_extra("gguf", purpose, ModelError)


def check_gguf_complete(path: Path) -> None:
    """Check that a file is a complete GGUF file, without reading its weights.

    Args:
        path: An existing file.

    Raises:
        ModelError: The file is not in the GGUF format, or it is truncated.
    """
    problem = _find_damage(path)
    if problem is not None:
        raise ModelError(f"model {str(path)!r}: not a readable GGUF file: {problem}. Download it again.")


def digest_gguf(path: Path) -> str:
    """Return the digest of a GGUF file: its SHA-256, prefixed with the version of the conversion.

    Args:
        path: A GGUF file.

    Returns:
        The digest, such as "v1-b179c9...".
    """
    return f"v{CONVERSION_VERSION}-{file_sha256(path)}"


def converted_folder(digest: str) -> Path:
    """Return the folder of a converted file in the model cache, which exists only if the file has been converted.

    Args:
        digest: The result of `digest_gguf`.
    """
    return cache_folder("converted") / digest


def convert_gguf(path: Path, digest: str, log: Log = discard_message) -> Path:
    """Convert a GGUF file to safetensors in float32 and keep the result in the model cache.

    Args:
        path: A GGUF file that transformers can read.
        digest: The result of `digest_gguf`. It names the folder in the cache.
        log: Called with messages about the steps of the conversion if it has to run.

    Returns:
        A folder with the weights, the configuration and the tokenizer.

    Raises:
        ModelError: transformers does not support this GGUF file, or would not load all of its tensors.
        StorageError: The cache folder cannot be created.
    """
    target = converted_folder(digest)
    if target.is_dir():
        return target
    log(f"converting {path.name} to safetensors (this is done only once and takes a minute or two)")
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        folder = Path(temporary) / "model"
        try:
            _save_as_safetensors(path, folder, log)
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            raise ModelError(f"model {str(path)!r}: transformers cannot read this GGUF file: {error}") from error
        _move_unless_present(folder, target)
    return target


def _move_unless_present(folder: Path, target: Path) -> None:
    """Move a folder to a target path, or do nothing if the target already exists."""
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():  # If it exists, another process has converted the same file.
            raise


def _find_damage(path: Path) -> str | None:
    """Return why a file is not a complete GGUF file, or None if it is."""
    require_gguf(f"model {str(path)!r}")
    from sparsedial.models.gguf_reader import TensorTableReader

    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return "it does not begin with 'GGUF'"
        tensors = TensorTableReader(path).tensors
        if not tensors:
            return "it has no weights, only metadata such as a vocabulary"
        last = max(tensors, key=lambda tensor: tensor.data_offset + tensor.n_bytes)
        if last.data_offset + last.n_bytes > path.stat().st_size:
            return "it ends before its last tensor"
    except Exception as error:  # For a damaged file, the reader raises arbitrary errors of numpy and struct.
        return str(error)
    return None


def _save_as_safetensors(path: Path, folder: Path, log: Log) -> None:
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sparsedial.models.gguf_reader import cache_lookups

    kwargs: dict[str, Any] = {"gguf_file": path.name, "dtype": torch.float32, "output_loading_info": True}
    if hasattr(transformers, "GgufConfig"):  # Newer versions of transformers keep the weights quantised by default.
        kwargs["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with cache_lookups(path) as reader:
        result: Any = AutoModelForCausalLM.from_pretrained(path.parent, **kwargs)
        loaded, info = result
        description = f"model {str(path)!r}"
        check_gguf_tensors([tensor.name for tensor in reader.tensors], loaded, description)
        check_checkpoint_keys(loaded, info, description, log)
        log(f"{path.name}: saving the dequantised weights")
        _copy_dequantised(loaded).save_pretrained(folder)
        log(f"{path.name}: converting the tokenizer, which takes up to a minute if the vocabulary is large")
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def _copy_dequantised(loaded: Any) -> Any:
    """Return a model with the same weights and without a quantisation configuration, saved like any dense model."""
    from transformers import AutoModelForCausalLM

    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):  # a random initialisation would be overwritten
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    return model
