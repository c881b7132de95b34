"""Detection of models that can share prefixes."""

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM

from sparsedial.inference.prefix_sharing_check import NO_LIMIT, find_max_shared_length


@pytest.mark.parametrize("model", ["llama", "phi3", "gpt2"])
def test_models_that_can_share(request, model):
    assert find_max_shared_length(request.getfixturevalue(model)) == NO_LIMIT


def test_sliding_windows_limit_the_length():
    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        sliding_window=16,
    )
    assert find_max_shared_length(MistralForCausalLM(config).eval()) == 16


def test_a_model_that_cannot_share_is_detected():
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=96)).eval()
    assert find_max_shared_length(bloom) == 0  # it computes its positions from the mask
