"""Calibration on a model: which vectors it sees, whose it is, and what it refuses."""

import copy
import json

import pytest
import torch

import sparsedial as sd
from sparsedial.calibration.vector_collector import VectorCollector
from sparsedial.errors import AttachError, SpecError
from sparsedial.models.in_memory import ModelInMemory
from sparsedial.rules import Calibration
from sparsedial.tasks.self_prediction import SelfPrediction
from tests.support.expert_models import GATHERS, ListedExpertsModel, build_model, padded_inputs
from tests.support.hooks import count_hooks


def collect_by_hooks(model, modules, tokens):
    """Return what modules read in one forward pass."""
    seen = [None] * len(modules)
    hooks = []
    for index, module in enumerate(modules):
        hooks.append(
            module.register_forward_pre_hook(lambda _, args, index=index: seen.__setitem__(index, args[0].clone()))
        )
    with torch.no_grad():
        model(tokens)
    for hook in hooks:
        hook.remove()
    return seen


def test_the_quantiles_are_those_of_the_vectors_of_the_samples(llama):
    calibration = sd.calibrate(llama, rule=sd.Threshold(0.5, tokens=192), site="all_inputs")
    lm = ModelInMemory(llama, None, "m").make_language_model()
    rows = SelfPrediction(sequences=2, length=96, seed=1).prepare(lm)["tokens"]
    tokens = torch.tensor(rows)[:, :-1]
    ffns = sd.find_ffns(llama)
    for ffn in ffns:
        vectors = collect_by_hooks(llama, [ffn.up.module, ffn.down], tokens)
        for name, values in zip(("input", "intermediate"), vectors, strict=True):
            bound = sd.Threshold(0.3, tokens=192).bind(ffn, name, calibration)
            expected = values.abs().double().quantile(0.3).item()
            assert bound.threshold == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rule", [sd.Threshold(0.5, tokens=96), sd.Cett(0.3, tokens=96)], ids=str)
def test_a_calibrated_model_is_sparse_and_then_as_before(llama, tokens, rule):
    calibration = sd.calibrate(llama, rule=rule, site="intermediate")
    hooks = count_hooks(llama)
    with torch.no_grad():
        dense = llama(tokens).logits
        with sd.sparsify(llama, "intermediate", rule, calibration=calibration) as sparsifier:
            sparse = llama(tokens).logits
            sparsifier.rule = type(rule)(0.0, tokens=96)
            assert torch.equal(llama(tokens).logits, dense)
    assert not torch.equal(sparse, dense) and torch.equal(llama(tokens).logits, dense)
    sparsities = sparsifier.stats().groupby("rule")["sparsity"].mean()
    assert sparsities.min() == 0 and 0.3 < sparsities.max() < 0.9
    assert count_hooks(llama) == hooks


def test_a_calibration_is_plain_json_and_repeats(llama):
    first = sd.calibrate(llama, rule="threshold(tokens=64)", site="input", layers=[1])
    assert first.digest == sd.calibrate(llama, rule=sd.Threshold(0.9, tokens=64), site="input", layers=[1]).digest
    assert Calibration(json.loads(json.dumps(first.values))).digest == first.digest
    assert first.values["task"]["task"] == "self_prediction" and list(first.values["ffns"]) == ["model.layers.1.mlp"]


def test_a_calibration_on_a_named_task_names_it(trained):
    rule = sd.Threshold(0.5, data="next_token", tokens=128)
    calibration = sd.calibrate(trained.model, trained.tokenizer, rule=rule, site="input", limit=20)
    assert calibration.values["data"] == "next_token" and len(calibration.values["task"]["text"]) == 64
    with pytest.raises(SpecError, match=r"it was made for .*next_token.*expected .*samples"):
        sd.sparsify(trained.model, "input", sd.Threshold(0.5, tokens=128), calibration=calibration)


def edit(model):
    changed = copy.deepcopy(model)
    for parameter in changed.parameters():
        parameter.data *= 1.01
    return changed


@pytest.mark.parametrize(
    ("sparsify", "message"),
    [
        (lambda model, c: sd.sparsify(edit(model), "input", sd.Threshold(0.5, tokens=64), calibration=c),
         "it belongs to another model or another state"),
        (lambda model, c: sd.sparsify(model, "gate", sd.Threshold(0.5, tokens=64), calibration=c),
         "no numbers for the vector 'gate' of model.layers.0.mlp"),
        (lambda model, c: sd.sparsify(model, "input", sd.Threshold(0.5, tokens=64), layers=[2], calibration=c),
         "no numbers for the vector 'input' of model.layers.2.mlp"),
        (lambda model, c: sd.sparsify(model, "intermediate", sd.Cett(0.5, tokens=64), calibration=c),
         "it was made for .*threshold.*expected .*cett"),
        (lambda model, c: sd.sparsify(model, "input", sd.Threshold(0.5), calibration=c), "expected .*1024"),
        (lambda model, c: sd.sparsify(model, "input", sd.Threshold(0.5), calibration=Calibration({"scales": [1.0]})),
         "it was made for .*None"),
        (lambda model, c: sd.sparsify(model, "input", sd.Threshold(0.5)), r"pass calibration=sparsedial\.calibrate"),
    ],
    ids=["model", "site", "layer", "rule", "tokens", "plain", "none"],
)  # fmt: skip
def test_a_calibration_that_belongs_to_something_else_is_refused(llama, sparsify, message):
    calibration = sd.calibrate(llama, rule=sd.Threshold(0.5, tokens=64), site="input", layers=[0, 1])
    with pytest.raises(SpecError, match=message):
        sparsify(llama, calibration)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "top_p", "site": "input"}, "needs no calibration"),
        ({"rule": "threshold(data=next_token)", "site": "input", "text": "missing.txt"}, "missing.txt"),
        ({"rule": "threshold(tokens=8)", "site": "input"}, "calibration tokens, at least 64"),
        ({"rule": "cett", "site": "gate"}, "not defined for the vector 'gate'"),
    ],
)
def test_wrong_requests_are_refused_before_the_model_runs(llama, arguments, message, monkeypatch):
    ffns = sd.find_ffns(llama)
    monkeypatch.setattr(llama, "forward", None)
    with pytest.raises(sd.SparsedialError, match=message):
        sd.calibrate(llama, ffns=ffns, **arguments)


def test_data_with_too_few_tokens_are_refused(trained):
    rule = sd.Threshold(0.5, data="next_token", tokens=64)
    with pytest.raises(SpecError, match="too few calibration tokens for the vector 'input' of layer 0: 3, expected at"):
        sd.calibrate(trained.model, trained.tokenizer, rule=rule, site="input", limit=1, length=3)


def test_stacked_experts_have_no_rule_of_their_own():
    model = build_model("olmoe")
    for rule in (sd.Threshold(0.5), sd.WeightedTopK(0.5)):
        with pytest.raises(SpecError, match="stacked in one parameter"):
            sd.sparsify(model, "input", rule)


def test_padding_is_not_calibrated_on(llama):
    inputs = padded_inputs()
    inputs["input_ids"] %= 96
    with sd.sparsify(llama, "input", sd.TopP(1.0)) as sparsifier:
        collector = VectorCollector(sparsifier, tokens=100)
        llama(**inputs)
    assert collector.most_tokens == 13
    dense = torch.cat(
        [row[mask.bool()] for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    )
    assert len(collector.vectors(0)) == len(dense)


def test_padding_that_cannot_be_told_apart_is_refused(llama):
    with sd.sparsify(llama, "input", sd.TopP(1.0)) as sparsifier:
        VectorCollector(sparsifier, tokens=100)
        with sparsifier.observe(real=torch.tensor([[True, False]])), pytest.raises(AttachError, match="are padding"):
            llama(torch.tensor([[3, 4, 5]]))


def test_experts_in_a_list_see_the_tokens_that_are_routed_to_them():
    model = ListedExpertsModel(GATHERS["index"])
    tokens = torch.arange(40)[None]
    with sd.sparsify(model, "intermediate", sd.TopP(1.0)) as sparsifier:
        collector = VectorCollector(sparsifier, tokens=1000)
        model(tokens)
    counts = sparsifier.stats().groupby("module")["tokens"].sum()
    for counter, key in enumerate(collector.keys):
        assert len(collector.vectors(counter)) == counts[key.module]
