"""Replacement of a module's input."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import sparsedial as sd
from sparsedial.hooks.module_patch import InputPatch


def double(x):
    return 2 * x


@pytest.mark.parametrize("module", [nn.Linear(4, 3), nn.Linear(4, 3, bias=False), nn.Sequential(nn.Linear(4, 3))])
def test_the_input_is_replaced_until_the_patch_is_removed(module):
    x = torch.randn(2, 4)
    dense = module(x)
    patch = InputPatch(module, double)
    torch.testing.assert_close(module(x), module.forward(x))
    assert not torch.equal(module(x), dense)
    patch.remove()
    assert torch.equal(module(x), dense)
    assert "forward" not in vars(module)


def test_a_patch_under_another_one_only_stops_changing_the_input():
    module = nn.Identity()
    first = InputPatch(module, double)
    second = InputPatch(module, double)
    assert module(torch.tensor(1.0)) == 4
    first.remove()
    assert module(torch.tensor(1.0)) == 2
    second.remove()
    assert module(torch.tensor(1.0)) == 1


def test_keyword_arguments_and_tuples_pass_through():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Linear(8, 16)
            self.down = nn.Linear(16, 8)

        def forward(self, x, note):
            return self.down(input=torch.relu(self.up(input=x))), note

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(16, 8)
            self.layers = nn.ModuleList([Layer(), Layer()])

        def forward(self, input_ids):
            x = self.embed(input_ids)
            notes = []
            for layer in self.layers:
                x, note = layer(x, note="kept")
                notes.append(note)
            return x, notes

    model = Model()
    with torch.no_grad():
        dense, _ = model(torch.arange(6)[None])
        with sd.sparsify(model, "all_inputs", sd.TopP(0.5)) as sparsifier:
            sparse, notes = model(torch.arange(6)[None])
    assert notes == ["kept", "kept"]
    assert not torch.equal(dense, sparse)
    assert len(sparsifier.stats()) == 4


def test_weights_may_be_loaded_for_each_call_by_a_device_map(own_llama, tokens):
    """Accelerate replaces every module's forward, and keeps the weights on another device between calls."""
    from accelerate import cpu_offload

    model = own_llama
    with torch.no_grad():
        dense = model(tokens).logits
        with sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as here:
            sparse = model(tokens).logits
        cpu_offload(model, execution_device=torch.device("cpu"))
        assert model.model.layers[0].mlp.up_proj.weight.device.type == "meta"
        with sd.sparsify(model, "all_inputs", sd.TopP(1)):
            assert torch.equal(model(tokens).logits, dense)
        with sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as there:
            assert torch.equal(model(tokens).logits, sparse)
    assert there.stats().equals(here.stats())


@pytest.mark.parametrize("when", ["before", "while"])
def test_weights_may_be_computed_for_each_call(own_llama, when):
    """`torch.nn.utils.prune` takes the weight out of the module's parameters."""

    def prune_layer():
        prune.l1_unstructured(own_llama.model.layers[0].mlp.down_proj, "weight", 0.5)

    tokens = torch.arange(6)[None]
    if when == "before":
        prune_layer()
    with torch.no_grad(), sd.sparsify(own_llama, "all_inputs", sd.TopP(1.0)):
        if when == "while":
            prune_layer()
        sparse = own_llama(tokens).logits
    with torch.no_grad():
        torch.testing.assert_close(sparse, own_llama(tokens).logits)
