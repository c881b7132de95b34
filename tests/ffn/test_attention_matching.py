"""The vectors outside of the FFNs: which projections read them, in attentions of many kinds."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING

import sparsedial as sd
from sparsedial.errors import ModelError
from sparsedial.ffn.projection_input import OUTER_SITES
from sparsedial.ffn.sites import select_outer_vectors
from tools.outer_sites import HEADING, check_outer_site
from tools.tiny_models import build_tiny_model

QKV = ("q_proj", "k_proj", "v_proj")

# Architecture -> readers of the attention's input and of its output, and layers with an attention.
EXPECTED = {
    "llama": (QKV, ("o_proj",), [0, 1]),  # grouped queries
    "gpt2": (("c_attn",), ("c_proj",), [0, 1]),  # fused, Conv1D, tied output layer
    "opt": (QKV, ("out_proj",), [0, 1]),
    "falcon": (("query_key_value",), ("dense",), [0, 1]),  # parallel to the FFN, which reads the same tensor
    "gptj": (QKV, ("out_proj",), [0, 1]),
    "deepseek_v3": (("q_a_proj", "kv_a_proj_with_mqa"), ("o_proj",), [0, 1]),  # low rank
    "gemma2": (QKV, ("o_proj",), [0, 1]),  # soft caps of scores and logits
    "afmoe": ((*QKV, "gate_proj"), ("o_proj",), [0, 1]),  # gated output
    "qwen3_next": (QKV, ("o_proj",), [1]),  # gate in q_proj; layer 0 is a linear attention
    "bamba": (QKV, ("o_proj",), [1]),  # layer 0 is a state-space layer
    "minimax": (QKV, ("o_proj",), [0]),  # layer 1 multiplies queries and keys without softmax
    "llama4": (QKV, ("o_proj",), [0, 1]),  # complex rotary positions
    "roformer": (("query", "key", "value"), ("dense",), [0, 1]),  # rotary positions from an embedding
    "bert": (("query", "key", "value"), ("dense",), [0, 1]),
    "moshi": (("q_proj.linear", "k_proj.linear", "v_proj.linear"), ("linear",), [0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("model_type", EXPECTED)
def test_sites_are_found_and_exact(model_type):
    readers, output, layers = EXPECTED[model_type]
    model = build_tiny_model(model_type)
    ffns = sd.find_ffns(model)
    inputs = ffns.outer.at_site("attention_input")
    outputs = ffns.outer.at_site("attention_output")
    assert [tuple(vector.names) for vector in inputs] == [readers] * len(layers)
    assert [tuple(vector.names) for vector in outputs] == [output] * len(layers)
    assert [vector.layer for vector in inputs] == [vector.layer for vector in outputs] == layers
    assert len(ffns.outer.at_site("lm_head_input")) == 1
    for site in OUTER_SITES:
        check_outer_site(model, ffns, site)


@pytest.mark.parametrize(
    ("model_type", "site", "reason"),
    [
        ("rwkv", "attention_input", "no product of softmax-normalised scores"),
        ("xlnet", "attention_input", "not computed by projections that are modules"),
        ("zaya", "attention_input", "belong to no token"),
        ("rwkv", "attention_output", "no product of softmax-normalised scores"),
    ],
)
def test_a_missing_site_is_an_error_before_any_work(model_type, site, reason):
    if model_type not in CONFIG_MAPPING:
        pytest.skip("this version of transformers does not have it")
    model = build_tiny_model(model_type)
    with pytest.raises(ModelError, match=f"no site '{site}'.*{reason}.*Available sites: input.*lm_head_input"):
        sd.sparsify(model, site, sd.TopP(0.5))


def test_a_model_without_an_output_layer():
    model = build_tiny_model("llama").model
    with pytest.raises(ModelError, match="no site 'lm_head_input': the logits are not the output of a projection"):
        select_outer_vectors(sd.find_ffns(model), "lm_head_input")


def test_ffns_that_the_user_names_do_not_hide_the_other_sites():
    model = build_tiny_model("llama")
    names = {"up": "model.layers.*.mlp.up_proj", "gate": "model.layers.*.mlp.gate_proj"}
    ffns = sd.find_ffns(model, modules={**names, "down": "model.layers.*.mlp.down_proj"})
    assert ffns.outer.inputs == sd.find_ffns(model).outer.inputs


class DepthAttention(nn.Module):
    """Attention over the hidden states of earlier layers, which is not an attention over tokens."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.query = nn.Linear(64, 1)

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> object:
        depth = torch.stack([hidden_states, 2 * hidden_states], dim=-2)
        weights = (depth @ self.query(hidden_states)[..., :1].expand(-1, -1, 64)[..., None]).softmax(-2)
        mixed = (weights.transpose(-1, -2) @ depth)[..., 0, :]
        return self.layer(mixed, *args, **kwargs)


def test_a_weighted_sum_of_hidden_states_is_not_an_attention():
    model = build_tiny_model("llama")
    expected = [vector.layer for vector in sd.find_ffns(model).outer.at_site("attention_output")]
    model.model.layers[1] = DepthAttention(model.model.layers[1])
    ffns = sd.find_ffns(model)
    assert [tuple(vector.names) for vector in ffns.outer.at_site("attention_output")] == [("o_proj",)] * 2
    assert [vector.layer for vector in ffns.outer.at_site("attention_output")] == expected


def test_weights_per_token():
    tied = build_tiny_model("gpt2")
    positions = tied.transformer.wpe.weight.numel()
    assert sd.find_ffns(tied).weights_per_token == sum(p.numel() for p in tied.parameters()) - positions
    untied = build_tiny_model("llama")
    embedding = untied.model.embed_tokens.weight.numel()
    assert sd.find_ffns(untied).weights_per_token == sum(p.numel() for p in untied.parameters()) - embedding
    sparse = build_tiny_model("mixtral")
    ffns = sd.find_ffns(sparse)
    idle = sum((1 - ffn.active_fraction) * sum(ffn.macs) for ffn in ffns)
    read = sum(p.numel() for p in sparse.parameters()) - sparse.model.embed_tokens.weight.numel() - idle
    assert ffns.weights_per_token == read


def test_the_page_lists_at_least_nine_tenths_of_the_architectures_and_a_reason_for_the_others():
    section = (Path(__file__).parents[2] / "docs" / "architectures.md").read_text().partition(HEADING)[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    cells = [row[1:] for row in rows[2:]]
    complete = [row for row in cells if not any(cell.startswith("none") for cell in row)]
    assert len(complete) >= 0.9 * len(cells)
    for row in cells:
        assert all(len(cell) > len("none: ") for cell in row if cell.startswith("none"))
