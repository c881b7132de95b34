"""The kind of a model is measured, and a model of another kind than declared is an error."""

import json

import pytest
import torch
import transformers
from transformers import BertConfig, BertForMaskedLM

import sparsedial as sd
from sparsedial.errors import ModelError, SpecError
from sparsedial.ffn.feed_forward import SITES
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.masked_diffusion import denoise
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel
from sparsedial.inference.run_context import RunContext
from sparsedial.models.kind import attends_to_later_tokens, detect_kind, find_mask_token
from sparsedial.models.loading import load_language_model
from sparsedial.models.masked_diffusion_llama import MaskedDiffusionLlama, MaskedDiffusionLlamaConfig
from sparsedial.models.sources import resolve_source
from tests.support.tasks import make_task
from tools.llada_shaped import ShapedConfig, ShapedModelLM


def bert():
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=96)
    return BertForMaskedLM(config).eval()


def shaped():
    torch.manual_seed(0)
    return ShapedModelLM(ShapedConfig()).eval()


def test_the_kind_is_measured(llama, gpt2, masked_llama):
    for model in (llama, gpt2):
        assert detect_kind(model) == "causal"
    for model in (masked_llama, bert(), shaped()):
        assert detect_kind(model) == "masked-diffusion"


def test_an_encoder_decoder_is_refused():
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 96}
    t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=96, **layers)
    for model in (t5, transformers.BartForConditionalGeneration(config)):
        with pytest.raises(ModelError, match=r"is an encoder-decoder.*expected a decoder-only or a masked diffusion"):
            detect_kind(model)


@pytest.mark.parametrize("name", ["LlamaForSequenceClassification", "LlamaForTokenClassification"])
def test_a_classifier_is_refused(llama, name):
    config = transformers.LlamaConfig(**{**llama.config.to_dict(), "num_labels": 3})
    with pytest.raises(ModelError, match=f"{name} returns logits of shape .*expected one logit per position and entry"):
        detect_kind(getattr(transformers, name)(config).eval())


def test_the_zoo_has_both_kinds():
    dense = load_language_model(resolve_source("zoo:dense-1.3m"), dtype="float32")
    diffusion = load_language_model(resolve_source("zoo:diffusion-1.3m"), dtype="float32")
    assert (dense.kind, dense.mask_token) == ("causal", None)
    assert (diffusion.kind, diffusion.mask_token) == ("masked-diffusion", 1)
    assert dense.identity().kind == "causal"
    assert diffusion.identity().mask_token == 1
    assert not attends_to_later_tokens(dense.model.to(torch.bfloat16))
    assert attends_to_later_tokens(diffusion.model.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (
            "masked-diffusion",
            ModelError,
            "declared as masked-diffusion, but it is causal: later tokens do not change earlier logits",
        ),
        ("block-diffusion", ModelError, "declared as block-diffusion, but it is causal"),
        ("diffusion", SpecError, "unknown kind 'diffusion': expected one of causal, masked-diffusion, block-diffusion"),
    ],
)
def test_a_causal_model_declared_as_something_else_is_refused(llama_source, kind, error, message):
    with pytest.raises(error, match=message):
        load_language_model(llama_source, dtype="float32", kind=kind)


def test_a_diffusion_model_declared_as_causal_is_refused():
    with pytest.raises(ModelError, match="declared as causal, but it is masked-diffusion: later tokens change earlier"):
        load_language_model(resolve_source("zoo:diffusion-1.3m"), dtype="float32", kind="causal")


def test_without_a_mask_token_the_first_task_raises_an_error(tmp_path, masked_llama):
    torch.manual_seed(0)
    config = MaskedDiffusionLlamaConfig(**{**masked_llama.config.to_dict(), "mask_token_id": None})
    MaskedDiffusionLlama(config).save_pretrained(tmp_path / "m")
    lm = load_language_model(resolve_source(str(tmp_path / "m")), dtype="float32")
    assert (lm.kind, lm.mask_token) == ("masked-diffusion", None)
    for name in ("self_prediction", "restoration", "denoising", "masked_token"):
        task = make_task(name, length=4)
        with pytest.raises(ModelError, match="has no mask token: expected mask_token_id"):
            task.prepare(lm)


def test_any_masked_lm_works_with_a_mask_token(tmp_path):
    bert().save_pretrained(tmp_path / "bert")
    source = resolve_source(str(tmp_path / "bert"))
    with pytest.raises(SpecError, match="mask token 96: expected an ID from 0 to 95"):
        load_language_model(source, dtype="float32", mask_token=96)
    lm = load_language_model(source, dtype="float32", mask_token=95)
    assert (type(lm.model).__name__, lm.mask_token) == ("BertForMaskedLM", 95)
    task = make_task("restoration", sequences=3, length=6)
    examples = task.prepare(lm)
    with sd.sparsify(lm.model, "all_inputs", sd.TopP(0.9)) as sparsifier:  # its FFNs are plain
        assert len(task.score(lm, examples, sparsifier).values) == 3


def test_the_mask_token_comes_from_the_user_the_configuration_or_the_tokenizer(masked_llama, llama):
    tokenizer = type("Tokenizer", (), {"mask_token_id": 7})
    assert find_mask_token(masked_llama, tokenizer, 4) == 4
    assert find_mask_token(masked_llama, tokenizer) == 95
    assert find_mask_token(llama, tokenizer) == 7
    assert find_mask_token(llama, None) is None


# Modeling code that comes with the model, with the module names of LLaDA


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    ShapedConfig.register_for_auto_class()
    ShapedModelLM.register_for_auto_class("AutoModel")
    shaped().save_pretrained(tmp_path / "llada")
    assert set(json.loads((tmp_path / "llada" / "config.json").read_text())["auto_map"]) == {"AutoConfig", "AutoModel"}
    return str(tmp_path / "llada")


def test_code_from_the_hub_runs_only_on_request(hub_folder):
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_language_model(resolve_source(hub_folder), dtype="float32")
    lm = load_language_model(resolve_source(hub_folder, trust_remote_code=True), dtype="float32")
    assert (lm.kind, lm.mask_token) == ("masked-diffusion", 90)
    assert type(lm.model).__module__ != ShapedModelLM.__module__  # its own copy of the code
    ffns = sd.find_ffns(lm.model)
    assert [(f.layer, f.hidden, f.width) for f in ffns] == [(0, 32, 80), (1, 32, 80)]
    assert dict(ffns[1].names) == {
        "up": "model.transformer.blocks.1.up_proj",
        "down": "model.transformer.blocks.1.ff_out",
        "gate": "model.transformer.blocks.1.ff_proj",
    }


@pytest.mark.parametrize("site", SITES)
def test_a_llada_shaped_model_denoises_at_every_site(site):
    model = shaped()
    prompt = torch.tensor([[5, 6, 7]])
    masked_lm = MaskedDiffusionModel(model, 90)
    dense = denoise(masked_lm, prompt, 8, DenoisingConfig(), [0]).tokens
    with sd.sparsify(model, site, sd.TopP(1.0)) as sparsifier:
        sparse = denoise(masked_lm, prompt, 8, DenoisingConfig(), [0], RunContext(sparsifier)).tokens
    assert torch.equal(sparse, dense)
    assert set(sparsifier.stats()["step"]) == set(range(8))
    with sd.sparsify(model, site, sd.TopP(0.5)) as sparsifier:
        denoise(masked_lm, prompt, 8, DenoisingConfig(), [0], RunContext(sparsifier))
    assert sparsifier.sparsity() > 0.2


def test_transformers_does_not_include_llada():
    assert not hasattr(transformers, "LLaDAModelLM")  # once it does, the tests above should use it
