"""``sparsedial inspect``: equal layers are one entry, no name is cut off, and the same as JSON."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sparsedial as sd
from sparsedial.ffn.layer_groups import group_layers
from tests.conftest import DECODER
from tests.support.command_line import run_sparsedial


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A model whose middle layer is wider than the others."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**DECODER, "num_hidden_layers": 5}))
    folder = tmp_path_factory.mktemp("uneven")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_names_are_whole_in_any_terminal(uneven, columns):
    text = run_sparsedial("inspect", uneven, columns=columns).stdout
    assert "layers 0–4: model.layers.*.mlp\n" in text
    assert "…" not in text
    if columns >= 80:
        for site in (*sd.SITES, "attention_input", "all_inputs and all others"):
            assert f" {site} " in text


def test_layers_that_differ_have_groups_of_their_own(llama):
    ffns = list(sd.find_ffns(llama))
    object.__setattr__(ffns[1], "width", 96)
    groups = group_layers(sd.FFNs(ffns))
    assert [group.layers for group in groups] == [(0, 2), (1,)]
    assert groups[0].modules == ("model.layers.0.mlp", "model.layers.2.mlp")
    assert {group.layout.module for group in groups} == {"model.layers.*.mlp"}


def test_the_json_document_has_every_module_and_the_share_of_each_site(uneven):
    completed = run_sparsedial("inspect", uneven, "--json")
    document = json.loads(completed.stdout)
    [group] = document["layer_groups"]
    assert group["modules"] == [f"model.layers.{layer}.mlp" for layer in range(5)]
    assert group["projections"] == {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    shares = {entry["site"]: entry["skippable_weights"] for entry in document["sites"]}
    assert shares["all_inputs"] == pytest.approx(shares["input"] + shares["intermediate"])
    assert document["origin"] == "directory"
    assert document["weights_per_token"] > 0


def test_experts_are_one_entry():
    text = run_sparsedial("inspect", "zoo:moe-5m").stdout
    assert "layers 0–3: model.layers.*.mlp.experts × 8 experts" in text
    assert "gate+up gate_up_proj" in text
