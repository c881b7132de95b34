"""The digest of a model in memory: the same for the same numbers, another one for whatever changes them."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from sparsedial.errors import ModelError
from sparsedial.models.loading import load_model
from sparsedial.models.memory_digest import digest_model
from tests.support.packed_modules import subclass_linear


def test_a_copy_and_a_saved_model_have_the_same_digest(llama, tmp_path):
    digest = digest_model(llama)
    assert digest_model(copy.deepcopy(llama)) == digest
    llama.save_pretrained(tmp_path)
    assert digest_model(type(llama).from_pretrained(tmp_path)) == digest


def edit_weight(model):
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1e-3


def edit_config(model):
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 500.0}


def edit_dtype(model):
    model.to(torch.bfloat16)


def swap_layers(model):
    layers = model.model.layers
    layers[0].mlp, layers[1].mlp = layers[1].mlp, layers[0].mlp


def replace_activation(model):
    model.model.layers[0].mlp.act_fn = nn.ReLU()


def add_buffer(model):
    model.model.norm.register_buffer("shift", torch.ones(1))


def scale_adapter(model):
    model.model.layers[0].mlp.up_proj.scaling = {"default": 2.0}  # as in the layers of PEFT


EDITS = [scale_adapter, edit_weight, edit_config, edit_dtype, swap_layers, replace_activation, add_buffer]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edited_model_has_another_digest(own_llama, edit):
    digest = digest_model(own_llama)
    edit(own_llama)
    assert digest_model(own_llama) != digest


def test_edited_packed_weights_have_another_digest():
    layer = subclass_linear(nn.Linear(8, 4))
    digest = digest_model(layer)
    assert digest_model(layer) == digest
    layer.weight.packed[0] += 16
    assert digest_model(layer) != digest


def test_nested_state_is_part_of_the_digest():
    class Packed(nn.Module):
        def __init__(self, state):
            super().__init__()
            self.state = state

        def get_extra_state(self):
            return self.state

    state = {"packed": (torch.zeros(2, dtype=torch.uint8), [torch.ones(1)]), "object": object()}
    other = {"packed": (torch.zeros(2, dtype=torch.uint8), [torch.ones(1) + 1]), "object": object()}
    assert digest_model(Packed(state)) == digest_model(Packed({**state, "object": object()}))
    assert digest_model(Packed(state)) != digest_model(Packed(other))


def test_the_tokenizer_is_part_of_the_digest_and_its_use_is_not(tmp_path):
    model, tokenizer = load_model("zoo:dense-0.4m", device="cpu", dtype="float32")
    digest = digest_model(model, tokenizer)
    assert digest_model(model) != digest
    tokenizer("The tides", padding="max_length", max_length=16, truncation=True)
    assert digest_model(model, tokenizer) == digest
    tokenizer.save_pretrained(tmp_path)
    assert digest_model(model, AutoTokenizer.from_pretrained(tmp_path)) == digest
    tokenizer.chat_template = "{{ messages }}"
    assert digest_model(model, tokenizer) != digest


def test_weights_without_values_are_an_error(llama):
    with pytest.raises(ModelError, match=r"embed_tokens\.weight is on the device 'meta'"):
        digest_model(copy.deepcopy(llama).to("meta"))
