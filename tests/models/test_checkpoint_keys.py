"""The loaded model is the model in the checkpoint: adapters and weights that are left over are never ignored."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsedial.errors import ModelError
from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import check_model_exists, resolve_source

PROJECTION = "model.layers.1.mlp.down_proj"


def change_weights(folder, change):
    """Rewrite the checkpoint after ``change`` has modified its dictionary of weights."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def load(folder, log=lambda message: None):
    return load_language_model(resolve_source(str(folder)), device="cpu", dtype="float32", log=log)


def add_lora(weights):
    weights[f"{PROJECTION}.lora_A.weight"] = torch.ones(2, 80)
    weights[f"{PROJECTION}.lora_B.weight"] = torch.ones(32, 2)


def wrap_base_layer(weights):
    weights[f"{PROJECTION}.base_layer.weight"] = weights.pop(f"{PROJECTION}.weight")
    weights[f"{PROJECTION}.lora_A.default.weight"] = torch.ones(2, 80)


def wrap_whole_model(weights):
    for name in list(weights):
        weights[f"base_model.model.{name}"] = weights.pop(name)


@pytest.mark.parametrize("change", [add_lora, wrap_base_layer, wrap_whole_model])
def test_adapter_weights_in_the_checkpoint_are_an_error(saved_llama, change):
    change_weights(saved_llama, change)
    with pytest.raises(ModelError, match=r"an adapter that is not merged: .*merge_and_unload\(\).*save_pretrained\(\)"):
        load(saved_llama)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapter_files_beside_the_weights_are_an_error(saved_llama, name):
    (saved_llama / name).write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ModelError, match=rf"has an adapter \({name}\).*merge_and_unload"):
        check_model_exists(str(saved_llama))


def test_a_folder_with_only_an_adapter_is_called_one(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="has an adapter"):
        check_model_exists(str(tmp_path))


@pytest.mark.parametrize(
    "key",
    [
        f"{PROJECTION}.bias",
        f"{PROJECTION}.weight_scale",
        "model.layers.0.mlp.shared_expert.up_proj.weight",
        "lm_head.bias",
    ],
)
def test_left_over_weights_of_existing_layers_are_an_error(saved_llama, key):
    change_weights(saved_llama, lambda weights: weights.update({key: torch.ones(32)}))
    with pytest.raises(ModelError, match=rf"LlamaForCausalLM does not use 1 weights of its layers: {key}"):
        load(saved_llama)


@pytest.mark.parametrize("key", ["v_head.summary.weight", "vision_tower.layers.0.mlp.weight", "model.layers.9.mlp.w"])
def test_weights_of_other_parts_are_logged(saved_llama, key):
    change_weights(saved_llama, lambda weights: weights.update({key: torch.ones(32)}))
    messages = []
    load(saved_llama, messages.append)
    assert [key in message for message in messages] == [True]


@pytest.mark.parametrize("key", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.attn.masked_bias"])
def test_buffers_of_older_versions_are_ignored(saved_llama, key):
    change_weights(saved_llama, lambda weights: weights.update({key: torch.ones(4)}))
    messages = []
    load(saved_llama, messages.append)
    assert messages == []


def test_missing_ffn_weights_are_an_error(saved_llama):
    change_weights(saved_llama, lambda weights: weights.pop(f"{PROJECTION}.weight"))
    with pytest.raises(ModelError, match=rf"1 weights are missing .*{PROJECTION}.weight.*randomly initialised"):
        load(saved_llama)
