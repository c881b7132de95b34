"""Loading models: device, dtype, missing weights and the tokenizer."""

import json
from pathlib import Path

import pytest
import torch

from sparsedial.errors import ModelError, SpecError
from sparsedial.models.loading import load_language_model, load_model, pick_device, pick_dtype
from sparsedial.models.sources import resolve_source


def test_a_directory_with_safetensors(llama_source, llama):
    lm = load_language_model(llama_source, device="cpu", dtype="float32")
    tokens = torch.arange(3, 9)[None]
    with torch.no_grad():
        assert torch.equal(lm.model(tokens).logits, llama(tokens).logits)
    assert (lm.source.origin, lm.tokenizer, lm.dtype) == ("directory", None, "float32")
    assert lm.parameters == sum(p.numel() for p in llama.parameters())
    assert not lm.identity().trust_remote_code


def test_the_digest_identifies_the_weights(llama_source):
    lm = load_language_model(llama_source, device="cpu", dtype="float32")
    assert lm.identity().weights == llama_source.digest


def test_devices_and_dtypes():
    assert pick_device("cpu").type == "cpu"
    assert pick_dtype("auto", torch.device("cuda")) == "bfloat16"
    for device in ("gpu", "meta"):
        with pytest.raises(SpecError, match="expected auto, spread, cpu"):
            pick_device(device)
    with pytest.raises(SpecError, match="this machine has"):
        pick_device("cuda:99")
    with pytest.raises(SpecError, match="expected auto, float32"):
        pick_dtype("int8", torch.device("cpu"))


def test_spread_loads_through_a_device_map(llama_source, llama):
    lm = load_language_model(llama_source, device="spread", dtype="float32")
    tokens = torch.arange(3, 9)[None]
    with torch.no_grad():
        assert torch.equal(lm.model(tokens).logits, llama(tokens).logits)


def test_missing_weights_are_an_error(tmp_path, llama):
    llama.model.save_pretrained(tmp_path / "headless")
    with pytest.raises(ModelError, match=r"missing.*lm_head.weight"):
        load_language_model(resolve_source(str(tmp_path / "headless")), dtype="float32")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": "32"}, "could not be loaded: StrictDataclassFieldValidationError.*'hidden_size' expected int"),
        ({"num_attention_heads": 5}, "could not be loaded: StrictDataclassClassValidationError.*not a multiple"),
        (
            {"architectures": ["MadeUpForBlockDiffusion"]},
            "could not be loaded: AttributeError.*MadeUpForBlockDiffusion",
        ),
    ],
)
def test_a_configuration_that_transformers_refuses_is_an_error(saved_llama, settings, message):
    path = saved_llama / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(ModelError, match=f"(?s){message}"):
        load_language_model(resolve_source(str(saved_llama)), device="cpu", dtype="float32")


@pytest.mark.parametrize("content", ["[]", "{"])
def test_a_tokenizer_that_cannot_be_read_is_reported(saved_llama, content):
    (saved_llama / "tokenizer_config.json").write_text(content)
    messages = []
    lm = load_language_model(resolve_source(str(saved_llama)), device="cpu", dtype="float32", log=messages.append)
    assert lm.tokenizer is None
    [message] = messages
    assert "its tokenizer cannot be read" in message


@pytest.mark.parametrize("name", [None, 3, Path("folder")])
def test_a_name_is_text(name):
    with pytest.raises(SpecError, match=r"load_model: got .* expected the name of a model as text"):
        load_model(name)
