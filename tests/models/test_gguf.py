"""GGUF files: damage is found before anything is loaded, and a conversion runs only once."""

import numpy as np
import pytest
from gguf import GGUFWriter

from sparsedial.errors import ModelError
from sparsedial.models.gguf import check_gguf_complete, convert_gguf, digest_gguf


@pytest.fixture
def gguf_file(tmp_path):
    """A complete GGUF file of an architecture that transformers does not know."""
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "made-up-architecture")
    writer.add_tensor("weight", np.ones((8, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_complete_file_is_accepted(gguf_file):
    check_gguf_complete(gguf_file)


@pytest.mark.parametrize("length", [0, 40, -8, -1000])
def test_a_truncated_file_is_refused(gguf_file, length):
    gguf_file.write_bytes(gguf_file.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"model\.gguf': not a readable GGUF file: .*Download it again"):
        check_gguf_complete(gguf_file)


def test_a_file_that_transformers_cannot_read_leaves_nothing_in_the_cache(gguf_file, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "cache"))
    messages = []
    with pytest.raises(ModelError, match="transformers cannot read this GGUF file"):
        convert_gguf(gguf_file, digest_gguf(gguf_file), messages.append)
    assert len(messages) == 1
    assert list((tmp_path / "cache" / "converted").iterdir()) == []


def test_a_converted_file_is_not_converted_again(gguf_file, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "cache"))
    digest = digest_gguf(gguf_file)
    folder = tmp_path / "cache" / "converted" / digest
    folder.mkdir(parents=True)
    messages = []
    assert convert_gguf(gguf_file, digest, messages.append) == folder
    assert messages == []
