"""Rules by site, by layer and by function, the selection of FFNs, and the errors of a wrong request."""

import re

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.errors import AttachError, SpecError
from sparsedial.hooks.rule_assignment import describe_rules
from tests.support.expert_models import build_model
from tests.support.hooks import count_hooks


def run(model, tokens, site, rule, **options):
    """Return the logits and the counts of one forward pass."""
    with torch.no_grad(), sd.sparsify(model, site, rule, **options) as sparsifier:
        logits = model(tokens).logits
    return logits, sparsifier.stats()


def test_a_mapping_from_layer_equals_one_sparsifier_per_layer(llama, tokens):
    rules = {0: sd.TopP(0.5), 2: sd.TopK(0.25)}
    logits, stats = run(llama, tokens, "input", rules)
    first, second = (sd.sparsify(llama, "input", rule, layers=[layer]) for layer, rule in rules.items())
    with torch.no_grad(), first, second:
        assert torch.equal(llama(tokens).logits, logits)
    assert stats["layer"].tolist() == [0, 2]
    assert stats["rule"].tolist() == ["TopP(p=0.5)", "TopK(fraction=0.25)"]
    assert stats["dropped"].tolist() == [*first.stats()["dropped"], *second.stats()["dropped"]]


def test_a_mapping_from_site_gives_each_vector_of_a_composite_site_its_rule(llama, tokens):
    rules = {"input": sd.TopP(0.9), "intermediate": sd.TopP(0.5)}
    logits, stats = run(llama, tokens, "all_inputs", rules)
    first, second = (sd.sparsify(llama, site, rule) for site, rule in rules.items())
    with torch.no_grad(), first, second:
        assert torch.equal(llama(tokens).logits, logits)
    assert stats["vector"].tolist() == ["input", "intermediate"] * 3
    for sparsifier, vector in ((first, "input"), (second, "intermediate")):
        assert stats[stats["vector"] == vector]["dropped"].tolist() == sparsifier.stats()["dropped"].tolist()


def test_a_vector_that_a_mapping_leaves_out_stays_dense_unless_the_whole_site_has_a_rule(llama, tokens):
    logits, stats = run(llama, tokens, "all_inputs", {"intermediate": sd.TopP(0.5)})
    expected_logits, expected = run(llama, tokens, "intermediate", sd.TopP(0.5))
    assert torch.equal(logits, expected_logits) and stats.equals(expected)
    _, stats = run(llama, tokens, "all_inputs", {"all_inputs": sd.TopP(0.5), "input": sd.TopP(0.9)})
    assert stats["rule"].tolist() == ["TopP(p=0.9)", "TopP(p=0.5)"] * 3


def test_a_function_gives_each_ffn_its_rule_and_none_leaves_it_dense(llama, tokens):
    called = []

    def choose(ffn):
        called.append(ffn.layer)
        return None if ffn.layer == 1 else sd.TopP(0.5)

    logits, stats = run(llama, tokens, "all_inputs", choose)
    expected_logits, expected = run(llama, tokens, "all_inputs", sd.TopP(0.5), layers=[0, 2])
    assert torch.equal(logits, expected_logits) and stats.equals(expected)
    assert called == [0, 1, 2]


def test_a_filter_selects_ffns(llama, tokens):
    logits, stats = run(llama, tokens, "gate", sd.TopP(0.5), filter_fn=lambda ffn: ffn.layer > 0)
    expected_logits, expected = run(llama, tokens, "gate", sd.TopP(0.5), layers=[1, 2])
    assert torch.equal(logits, expected_logits) and stats.equals(expected)


def test_layers_of_a_mixture_of_experts_may_have_different_rules(tokens):
    model = build_model("qwen3_moe")
    _, stats = run(model, tokens, "intermediate", {0: sd.TopK(0.25), 1: sd.TopK(0.5)})
    assert stats[stats["total"] > 0].groupby("layer")["sparsity"].unique().map(list).tolist() == [[0.75], [0.5]]


def test_the_site_must_exist_only_where_there_is_a_rule(gpt2):
    with pytest.raises(sd.SparsedialError, match="no gate"):
        sd.sparsify(gpt2, "gate", {0: sd.TopP(0.5)})


@pytest.mark.parametrize(
    ("site", "rule", "message"),
    [
        ("input", 0.9, "expected a rule such as TopP(0.9), a mapping"),
        ("input", sd.TopP, "expected a rule such as TopP(0.9), a mapping"),
        ("input", {}, "empty mapping"),
        ("input", {7: sd.TopP(0.9)}, "unknown layer(s) [7]. The selected FFNs are in layers [0, 1, 2]"),
        ("input", {"inputs": sd.TopP(0.9)}, "'inputs'"),
        ("input", {"gate": sd.TopP(0.9)}, "not a part of the site 'input'. Expected one of input"),
        ("all_inputs", {"input": sd.TopP(0.9), 0: sd.TopP(0.9)}, "either all sites or all layer indices"),
        ("all_inputs", {True: sd.TopP(0.9)}, "either all sites or all layer indices"),
        ("input", {0: 0.9}, "rule[0]: expected a rule such as TopP(0.9), or None for a dense FFN, got 0.9"),
        ("input", {0: None}, "no FFN was given a rule"),
        ("input", lambda ffn: None, "no FFN was given a rule"),
        ("input", lambda ffn: 0.9, "for model.layers.0.mlp: expected a rule"),
    ],
)
def test_a_wrong_rule_is_an_error_before_anything_is_attached(llama, site, rule, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        sd.sparsify(llama, site, rule)
    with sd.sparsify(llama, site, sd.TopP(0.9)) as sparsifier:
        with pytest.raises(SpecError, match=re.escape(message)):
            sparsifier.rule = rule
        assert sparsifier.rule == sd.TopP(0.9)
    assert count_hooks(llama) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter_fn": lambda ffn: False}, "filter_fn: no FFN was chosen"),
        ({"filter_fn": lambda ffn: None}, "expected True or False for model.layers.0.mlp, got None"),
        ({"filter_fn": "model.layers.0.mlp"}, "expected a function"),
        ({"layers": []}, "No layer was chosen"),
    ],
)
def test_a_wrong_selection_is_an_error(llama, options, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        sd.sparsify(llama, "input", sd.TopP(0.9), **options)


def test_stacked_experts_are_treated_alike():
    model = build_model("qwen3_moe")
    with pytest.raises(AttachError, match="only 1 of 4 experts"):
        sd.sparsify(model, "input", sd.TopP(0.9), filter_fn=lambda ffn: ffn.expert == 0)
    with pytest.raises(AttachError, match="its experts were given different rules"):
        sd.sparsify(model, "input", lambda ffn: sd.TopP(0.5 + ffn.expert / 10))


def test_representations_are_short(llama):
    with sd.sparsify(llama, "all_inputs", {0: sd.TopP(0.5), 1: sd.TopP(0.6)}) as sparsifier:
        sparsifier.enabled = False
        assert repr(sparsifier) == (
            "Sparsifier(site='all_inputs', rule=[TopP(p=0.5), TopP(p=0.6)], ffns=2, attached, disabled)"
        )
    ffns = sd.find_ffns(llama)
    assert repr(ffns[1]) == "FFN('model.layers.1.mlp', layer=1, gated=True, 32 x 80)"
    assert len(repr(list(ffns))) < 300
    assert repr(sd.find_ffns(build_model("qwen3_moe"))[1]).startswith(
        "FFN('model.layers.0.mlp.experts.1', layer=0, exp"
    )
    assert describe_rules([sd.TopP(p / 10) for p in range(5)]) == "[TopP(p=0.0), TopP(p=0.1), TopP(p=0.2) and 2 more]"


@pytest.mark.parametrize("layers", [0, "01", [0, "1"], [True], [0.0], [[0]]], ids=repr)
@pytest.mark.parametrize("site", ["input", "attention_input"])
def test_layers_are_several_whole_numbers(llama, site, layers):
    with pytest.raises(
        SpecError, match=re.escape(f"layers={layers!r}: expected the indices of layers, such as [0, 1]")
    ):
        sd.sparsify(llama, site, sd.TopP(0.9), layers=layers)


def test_layers_may_be_numbers_of_numpy(llama, tokens):
    _, stats = run(llama, tokens, "input", sd.TopP(0.9), layers=np.arange(2))
    assert stats["layer"].tolist() == [0, 1]
