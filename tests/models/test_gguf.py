"""GGUF files: damage is found before anything is loaded, and a conversion runs only once."""

import gguf
import numpy as np
import pytest
from gguf import GGUFWriter

from sparsedial.errors import ModelError
from sparsedial.models.gguf import check_gguf_complete, convert_gguf, digest_gguf
from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source
from tests.support.gguf_files import llama_tensors, write_llama


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


def test_a_file_without_weights_is_refused(tmp_path):
    path = tmp_path / "vocabulary.gguf"
    writer = GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="it has no weights, only metadata"):
        check_gguf_complete(path)


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


# ---------------------------------------------------------------------- conversions


@pytest.fixture
def load_llama(tmp_path, monkeypatch):
    """Return a function that writes a GGUF file with these tensors and loads it."""
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "cache"))

    def load(tensors):
        path = write_llama(tmp_path / "llama.gguf", tensors)
        return load_language_model(resolve_source(str(path)), device="cpu", dtype="float32")

    return load


def test_all_weights_and_the_tokenizer_are_converted(load_llama):
    original_reader = gguf.GGUFReader
    tensors = llama_tensors()
    lm = load_llama(tensors)
    weights = lm.model.state_dict()
    assert np.array_equal(weights["model.layers.1.mlp.down_proj.weight"], tensors["blk.1.ffn_down.weight"])
    assert np.array_equal(weights["lm_head.weight"], tensors["token_embd.weight"])
    assert lm.tokenizer.decode(lm.tokenizer("A!#B", add_special_tokens=False)["input_ids"]) == "A!#B"
    assert lm.parameters == sum(tensor.size for tensor in tensors.values())
    assert gguf.GGUFReader is original_reader


@pytest.mark.parametrize(("noise", "is_repeated"), [(0.0, True), (0.1, True), (1.0, False)])
def test_an_output_layer_that_repeats_the_embedding_counts_once(load_llama, noise, is_repeated):
    tensors = llama_tensors()
    size = sum(tensor.size for tensor in tensors.values())
    embedding = tensors["token_embd.weight"]
    error = noise * 0.1 * np.random.default_rng(1).standard_normal(embedding.shape)
    tensors["output.weight"] = (embedding + error).astype(np.float32)
    assert load_llama(tensors).parameters == (size if is_repeated else size + embedding.size)


def test_missing_ffn_weights_are_an_error(load_llama):
    tensors = llama_tensors()
    del tensors["blk.1.ffn_down.weight"]
    with pytest.raises(ModelError, match=r"1 weights are missing .*layers.1.mlp.down_proj.*randomly initialised"):
        load_llama(tensors)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blk.0.attn_q.bias", r"transformers skips 1 tensors of the GGUF file: blk.0.attn_q.bias"),
        ("blk.0.ffn_extra.weight", r"transformers skips 1 tensors of the GGUF file: blk.0.ffn_extra.weight"),
        ("blk.0.ffn_up.weight.lora_a", r"contains an adapter that is not merged: blk.0.ffn_up.weight.lora_a"),
    ],
)
def test_tensors_that_would_be_skipped_are_an_error(load_llama, tmp_path, name, message):
    with pytest.raises(ModelError, match=message):
        load_llama({**llama_tensors(), name: np.ones(32, dtype=np.float32)})
    assert list((tmp_path / "cache" / "converted").iterdir()) == []


def test_a_file_that_ends_in_its_vocabulary_is_refused(tmp_path):
    path = write_llama(tmp_path / "llama.gguf", llama_tensors())
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"</s>") + 100])
    with pytest.raises(ModelError, match="not a readable GGUF file"):
        check_gguf_complete(path)
