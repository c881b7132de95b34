"""Detection of the sizes at which models can share prefixes."""

import random

import numpy as np
import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    BloomConfig,
    BloomForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
)

from sparsedial.inference.loglikelihood import compute_loglikelihoods
from sparsedial.inference.prefix_sharing_check import find_max_shared_length
from sparsedial.inference.prefix_tree import Window
from tools.tiny_models import build_tiny_model

WINDOW = 40
SIZES = {"hidden_size": 32, "vocab_size": 96, "num_attention_heads": 4, "intermediate_size": 48}
LIMITS = {"max_length": 120, "batch_tokens": 512}


def gpt_neo():
    layers = {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW}
    return GPTNeoForCausalLM(GPTNeoConfig(hidden_size=32, num_heads=4, vocab_size=96, **layers))


def mistral():
    heads = {"num_key_value_heads": 2, "num_hidden_layers": 2}
    return MistralForCausalLM(MistralConfig(**SIZES, **heads, sliding_window=WINDOW))


def modern_bert():
    layers = {
        "num_hidden_layers": 2,
        "local_attention": 2 * WINDOW,
        "layer_types": ["full_attention", "sliding_attention"],
    }
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    return ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**SIZES, **layers, **special))


def llama4():
    layers = {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 8, "attention_chunk_size": WINDOW}
    experts = {"num_local_experts": 2, "intermediate_size_mlp": 48, "pad_token_id": 0}
    return Llama4ForCausalLM(Llama4TextConfig(**SIZES, **layers, **experts))


def bloom():
    return BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=96))


def mamba():
    return MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=96, state_size=4))


def deepseek_v32():
    if "deepseek_v32" not in CONFIG_MAPPING:
        pytest.skip("this version of transformers does not have it")
    return build_tiny_model("deepseek_v32")


WINDOWED = (gpt_neo, mistral, modern_bert, llama4)
UNSHARED = (bloom, mamba)


def build(model):
    torch.manual_seed(0)
    model = model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)  # so that the predictions depend strongly on the context
    return model


def make_groups(context, option, count=5):
    """Return questions with three options each. The options have different lengths."""
    generator = random.Random(0)

    def tokens(length):
        return [generator.randrange(3, 96) for _ in range(length)]

    groups = []
    for _ in range(count):
        start = tokens(context)
        groups.append([Window(start, tokens(option + extra)) for extra in range(3)])
    return groups


def flat_loglikelihoods(model, groups, max_shared_length=0):
    scores = compute_loglikelihoods(model, groups, max_length=LIMITS["max_length"], max_shared_length=max_shared_length)
    return [score.loglikelihood for group_scores in scores for score in group_scores]


@pytest.mark.parametrize("model", ["llama", "phi3", "gpt2"])
def test_models_that_can_share(request, model):
    groups = make_groups(20, 5)
    assert find_max_shared_length(request.getfixturevalue(model), groups, **LIMITS) == 20 + 4 + 5 + 6  # all nodes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_errors_do_not_prevent_sharing(trained, dtype):
    groups = make_groups(20, 5)
    model = trained.model.to(dtype)
    try:
        assert find_max_shared_length(model, groups, **LIMITS) == 35
    finally:
        trained.model.float()


@pytest.mark.parametrize("model", [*WINDOWED, *UNSHARED])
@pytest.mark.parametrize(("context", "option"), [(10, 4), (8, 20), (60, 4)])
def test_what_is_shared_is_right(model, context, option):
    model = build(model)
    groups = make_groups(context, option)
    shared = flat_loglikelihoods(model, groups, find_max_shared_length(model, groups, **LIMITS))
    single = [flat_loglikelihoods(model, [[window]])[0] for group in groups for window in group]
    np.testing.assert_allclose(shared, single, atol=1e-4)


@pytest.mark.parametrize("model", WINDOWED)
def test_short_documents_of_models_with_windows_are_shared(model):
    groups = make_groups(10, 5)
    assert find_max_shared_length(build(model), groups, **LIMITS) == 25


@pytest.mark.parametrize("model", [*UNSHARED, deepseek_v32])
def test_models_that_cannot_share(model):
    assert find_max_shared_length(build(model), make_groups(10, 5), **LIMITS) == 0


def test_the_size_is_halved_until_the_model_can_share():
    model = build(mistral)
    groups = [*make_groups(50, 4), *make_groups(10, 3)]
    assert find_max_shared_length(model, groups, **LIMITS) == (50 + 3 + 4 + 5) // 2


def test_the_size_depends_on_the_groups_only():
    small = make_groups(10, 5)
    model = build(mistral)
    find_max_shared_length(model, make_groups(50, 20), **LIMITS)
    assert find_max_shared_length(model, small, **LIMITS) == find_max_shared_length(build(mistral), small, **LIMITS)


def test_without_common_prefixes_nothing_is_run(llama, monkeypatch):
    monkeypatch.setattr(type(llama), "forward", None)
    groups = [[Window([5, 6], [7])], [Window([5, 6], [7]), Window([5, 6], [8])]]
    assert find_max_shared_length(llama, groups, **LIMITS) == 0
