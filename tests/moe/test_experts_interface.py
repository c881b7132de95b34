"""The connection to transformers' experts interface: what is replaced, and that it is restored."""

import copy

import pytest
import torch
from torch import nn

import sparsedial as sd
from sparsedial.errors import AttachError
from sparsedial.ffn import FFNs
from sparsedial.moe.experts_interface import uses_experts_interface
from tests.support.expert_models import experts_configurations, padded_inputs
from tools.architectures import model_state


def test_only_modules_that_ask_the_interface_use_it(qwen):
    experts = qwen.model.layers[0].mlp.experts

    class OwnForward(type(experts)):
        def forward(self, hidden_states, top_k_index, top_k_weights):
            return hidden_states @ self.down_proj[0].T

    assert uses_experts_interface(experts)
    assert not uses_experts_interface(nn.Linear(2, 2))
    experts.__class__ = OwnForward
    assert not uses_experts_interface(experts)


@torch.no_grad()
def test_only_the_chosen_layers_are_changed(qwen):
    first, second = (layer.mlp.experts for layer in qwen.model.layers)
    own = second.config
    with sd.sparsify(qwen, "intermediate", sd.TopP(0.5), layers=[1]) as sparsifier:
        assert first.config is own is qwen.config
        assert second.config is not own
        assert second.config.hidden_size == own.hidden_size
        assert qwen.config._experts_implementation == "grouped_mm"
        qwen(**padded_inputs())
    assert second.config is own
    assert set(sparsifier.stats()["layer"]) == {1}


@torch.no_grad()
def test_a_sparsified_module_can_be_copied(qwen):
    experts = qwen.model.layers[0].mlp.experts
    with sd.sparsify(qwen, "intermediate", sd.TopP(0.5)):
        assert copy.copy(experts.config).hidden_size == qwen.config.hidden_size


@torch.no_grad()
def test_nested_sites_and_the_outer_one_after_the_inner_one_ended(qwen):
    dense = qwen(**padded_inputs()).logits
    with sd.sparsify(qwen, "input", sd.TopP(0.9)) as outer:
        with sd.sparsify(qwen, "intermediate", sd.TopP(0.9)) as inner:
            both = qwen(**padded_inputs()).logits
            with pytest.raises(AttachError, match="already"), sd.sparsify(qwen, "all_inputs", sd.TopP(0.5)):
                pass
        one = qwen(**padded_inputs()).logits
    with sd.sparsify(qwen, "all_inputs", sd.TopP(0.9)) as together:
        assert torch.equal(qwen(**padded_inputs()).logits, both)
    assert not torch.equal(one, both)
    assert torch.equal(qwen(**padded_inputs()).logits, dense)
    sums = together.stats().groupby("vector")["dropped"].sum()
    assert sums["intermediate"] == inner.stats()["dropped"].sum()
    assert outer.stats()["tokens"].sum() == 2 * inner.stats()["tokens"].sum()


@torch.no_grad()
def test_nothing_remains_after_an_exception(qwen):
    before = model_state(qwen)
    configurations = experts_configurations(qwen)
    sparsifier = sd.sparsify(qwen, "up", sd.TopP(0.5))
    with pytest.raises(IndexError), sparsifier:
        qwen(**padded_inputs())
        qwen(torch.full((1, 3), 1000))  # This token is not in the vocabulary.
    assert model_state(qwen) == before
    assert experts_configurations(qwen) == configurations
    assert sparsifier.stats()["tokens"].sum() == 13 * 2 * 2  # Only the forward pass that finished is counted.


@torch.no_grad()
def test_stacked_experts_are_sparsified_together_or_not_at_all(qwen):
    ffns = sd.find_ffns(qwen)
    before = model_state(qwen)
    with pytest.raises(AttachError, match=r"only 3 of 4 experts"):
        sd.sparsify(qwen, "input", sd.TopP(0.5), ffns=FFNs(ffns[1:])).__enter__()
    assert model_state(qwen) == before
    with sd.sparsify(qwen, "input", sd.TopP(0.5), ffns=ffns):
        qwen(**padded_inputs())


@torch.no_grad()
def test_the_experts_implementation_can_change_while_attached(qwen):
    """`generate` does so on a GPU, where decoding uses batched_mm."""
    dense = {}
    for implementation in ("grouped_mm", "batched_mm"):
        qwen.set_experts_implementation(implementation)
        dense[implementation] = qwen(**padded_inputs()).logits
    with sd.sparsify(qwen, "gate", sd.TopP(1)) as sparsifier:
        for implementation in ("grouped_mm", "batched_mm"):
            qwen.set_experts_implementation(implementation)
            assert torch.equal(qwen(**padded_inputs()).logits, dense[implementation])
    assert sparsifier.stats()["tokens"].sum() == 2 * 13 * 2 * 2
    assert qwen.config._experts_implementation == "batched_mm"
