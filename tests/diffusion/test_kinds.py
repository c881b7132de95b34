"""Which kind of model it is: measured, and an error where it is not what was said."""

import json

import pytest
import torch
import transformers
from llada_shaped import ShapedConfig, ShapedModelLM
from transformers import BertConfig, BertForMaskedLM

import sparsedial as sd
from sparsedial.diffusion.kinds import kind_of, mask_token_of, sees_ahead
from sparsedial.diffusion.model import MaskedDiffusionLlama, MaskedDiffusionLlamaConfig
from sparsedial.diffusion.sampler import Denoising, fill_in
from sparsedial.errors import ModelError, SpecError
from sparsedial.models import load_model
from sparsedial.sites import SITES
from sparsedial.sources import find_model
from sparsedial.tasks import TaskOptions, make_tasks


def bert():
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=96)
    return BertForMaskedLM(config).eval()


def shaped():
    torch.manual_seed(0)
    return ShapedModelLM(ShapedConfig()).eval()


def test_a_kind_is_measured(llama, gpt2, masked_llama):
    assert [kind_of(m) for m in (llama, gpt2, masked_llama, bert(), shaped())] == ["causal"] * 2 + [
        "masked-diffusion"
    ] * 3


def test_the_zoo_has_both_kinds():
    kinds = {name: load_model(find_model(name), dtype="float32") for name in ("zoo:dense-1.3m", "zoo:diffusion-1.3m")}
    assert [(lm.kind, lm.mask_token) for lm in kinds.values()] == [("causal", None), ("masked-diffusion", 1)]
    assert [sees_ahead(lm.model.to(torch.bfloat16)) for lm in kinds.values()] == [False, True]
    assert "kind" not in kinds["zoo:dense-1.3m"].identity()
    assert kinds["zoo:diffusion-1.3m"].identity()["mask_token"] == 1


@pytest.fixture
def saved_llama(tmp_path, llama):
    llama.save_pretrained(tmp_path / "causal")
    return find_model(str(tmp_path / "causal"))


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (
            "masked-diffusion",
            ModelError,
            "given as masked-diffusion, but it is causal: what comes later does not change",
        ),
        ("block-diffusion", ModelError, "given as block-diffusion, but it is causal"),
        ("diffusion", SpecError, "unknown kind 'diffusion': expected one of causal, masked-diffusion, block-diffusion"),
    ],
)
def test_a_causal_model_given_as_something_else_is_refused(saved_llama, said, error, message):
    with pytest.raises(error, match=message):
        load_model(saved_llama, dtype="float32", kind=said)


def test_a_diffusion_model_given_as_causal_is_refused():
    with pytest.raises(ModelError, match="given as causal, but it is masked-diffusion: what comes later changes"):
        load_model(find_model("zoo:diffusion-1.3m"), dtype="float32", kind="causal")


def test_without_a_mask_token_the_first_task_says_so(tmp_path, masked_llama):
    torch.manual_seed(0)
    MaskedDiffusionLlama(
        MaskedDiffusionLlamaConfig(**{**masked_llama.config.to_dict(), "mask_token_id": None})
    ).save_pretrained(tmp_path / "m")
    lm = load_model(find_model(str(tmp_path / "m")), dtype="float32")
    assert (lm.kind, lm.mask_token) == ("masked-diffusion", None)
    for name in ("self_prediction", "restoration", "denoising", "masked_token"):
        [task] = make_tasks([name], TaskOptions(sequences=2, length=4))
        with pytest.raises(ModelError, match="has no mask token: expected mask_token_id"):
            task.prepare(lm)


def test_any_masked_lm_will_do_given_a_mask_token(tmp_path):
    bert().save_pretrained(tmp_path / "bert")
    source = find_model(str(tmp_path / "bert"))
    with pytest.raises(SpecError, match="mask token 96: expected an id from 0 to 95"):
        load_model(source, dtype="float32", mask_token=96)
    lm = load_model(source, dtype="float32", mask_token=95)
    assert (type(lm.model).__name__, lm.mask_token) == ("BertForMaskedLM", 95)
    [task] = make_tasks(["restoration"], TaskOptions(sequences=3, length=6))
    examples = task.prepare(lm)
    with sd.sparsify(lm.model, "all_inputs", sd.TopP(0.9)) as dial:  # its FFNs are plain
        assert len(task.score(lm, examples, dial).values) == 3


def test_the_mask_token_is_the_given_the_configurations_or_the_tokenizers(masked_llama, llama):
    tokenizer = type("Tokenizer", (), {"mask_token_id": 7})
    assert mask_token_of(masked_llama, tokenizer, 4) == 4
    assert mask_token_of(masked_llama, tokenizer) == 95
    assert mask_token_of(llama, tokenizer) == 7
    assert mask_token_of(llama, None) is None


# ---------------------------------------------------------------------- LLaDA's kind of code


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    ShapedConfig.register_for_auto_class()
    ShapedModelLM.register_for_auto_class("AutoModel")
    shaped().save_pretrained(tmp_path / "llada")
    assert set(json.loads((tmp_path / "llada" / "config.json").read_text())["auto_map"]) == {"AutoConfig", "AutoModel"}
    return str(tmp_path / "llada")


def test_code_from_the_hub_runs_only_when_asked_for(hub_folder):
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_model(find_model(hub_folder), dtype="float32")
    lm = load_model(find_model(hub_folder, trust_remote_code=True), dtype="float32")
    assert (lm.kind, lm.mask_token) == ("masked-diffusion", 90)
    assert type(lm.model).__module__ != ShapedModelLM.__module__  # its own copy of the code
    ffns = sd.find_ffns(lm.model)
    assert [(f.layer, f.hidden, f.width) for f in ffns] == [(0, 32, 80), (1, 32, 80)]
    assert dict(ffns[1].names) == {
        role: f"model.transformer.blocks.1.{name}"
        for role, name in (("up", "up_proj"), ("down", "ff_out"), ("gate", "ff_proj"))
    }


@pytest.mark.parametrize("site", SITES)
def test_a_llada_shaped_model_denoises_under_every_site(site):
    model, prompt = shaped(), torch.tensor([[5, 6, 7]])
    dense = fill_in(model, prompt, 8, 90, Denoising(), [0]).tokens
    with sd.sparsify(model, site, sd.TopP(1.0)) as dial:
        assert torch.equal(fill_in(model, prompt, 8, 90, Denoising(), [0], dial=dial).tokens, dense)
    assert set(dial.stats()["step"]) == set(range(8))
    with sd.sparsify(model, site, sd.TopP(0.5)) as dial:
        fill_in(model, prompt, 8, 90, Denoising(), [0], dial=dial)
    assert dial.sparsity() > 0.2


def test_transformers_has_no_llada_of_its_own():
    assert not hasattr(transformers, "LLaDAModelLM")  # if it has one day, test with that one
