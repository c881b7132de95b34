"""The rule at each site, against the formulas of the FFN."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sparsedial as sd
from sparsedial.errors import AttachError
from sparsedial.ffn.feed_forward import SITES
from sparsedial.hooks.site_attachment import list_vectors
from sparsedial.kernels import reference
from sparsedial.rules import TopP


def test_all_inputs_are_two_vectors_and_counters_are_numbered_in_order(llama):
    vectors = list_vectors(sd.find_ffns(llama), "all_inputs")
    assert [vector.counter for vector in vectors] == list(range(6))
    assert [vector.name for vector in vectors] == ["input", "intermediate"] * 3
    assert [vector.make_key().width for vector in vectors] == [32, 80] * 3


def test_each_site_follows_its_formula(llama, tokens):
    mlp = llama.model.layers[1].mlp
    x = torch.randn(2, 5, 32)

    def top(v):
        return reference.select(v, TopP(0.6))[0]

    with torch.no_grad():
        u = mlp.up_proj(x)
        g = mlp.act_fn(mlp.gate_proj(x))
        expected = {
            "input": mlp(top(x)),
            "up": mlp.down_proj(top(u) * g),
            "gate": mlp.down_proj(u * top(g)),
            "intermediate": mlp.down_proj(top(u * g)),
        }
        sparse_x = top(x)
        expected["all_inputs"] = mlp.down_proj(top(mlp.up_proj(sparse_x) * mlp.act_fn(mlp.gate_proj(sparse_x))))
        for site in SITES:
            with sd.sparsify(llama, site, sd.TopP(0.6), layers=[1]):
                torch.testing.assert_close(mlp(x), expected[site], msg=site)


def test_the_halves_of_a_fused_projection_are_separate_sites(phi3):
    mlp = phi3.model.layers[0].mlp
    x = torch.randn(7, 32)
    with torch.no_grad():
        gate, up = mlp.gate_up_proj(x).chunk(2, -1)
        g = mlp.activation_fn(gate)
        for site, i in (
            ("gate", up * reference.select(g, TopP(0.6))[0]),
            ("up", reference.select(up, TopP(0.6))[0] * g),
        ):
            with sd.sparsify(phi3, site, sd.TopP(0.6), layers=[0]):
                torch.testing.assert_close(mlp(x), mlp.down_proj(i), msg=site)


@torch.no_grad()
def test_a_down_projection_without_the_mask_of_its_vector_is_an_error():
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=32,
        hidden_act="sigmoid",
    )  # fmt: skip
    mlp = LlamaForCausalLM(config).model
    with sd.sparsify(mlp, "gate", sd.TopP(0.6)):
        with pytest.raises(AttachError, match=r"layers.0.mlp: its down projection was called without"):
            mlp.layers[0].mlp.down_proj(torch.randn(2, 24))
        mlp(torch.arange(6)[None])
