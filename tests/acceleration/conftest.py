"""Models for the tests of acceleration."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

HIDDEN = 40  # widths that are no multiple of a tile
WIDTH = 100


def make_llama(**options):
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=64,
        **options,
    )
    return LlamaForCausalLM(config)


def make_gpt2():
    return GPT2LMHeadModel(
        GPT2Config(n_embd=HIDDEN, n_layer=2, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=0)
    )


def make_phi3():
    config = Phi3Config(
        hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=64, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return Phi3ForCausalLM(config)


def make_opt():
    config = OPTConfig(
        hidden_size=HIDDEN, ffn_dim=WIDTH, num_hidden_layers=2, num_attention_heads=4, vocab_size=64,
        word_embed_proj_dim=HIDDEN,
    )  # fmt: skip
    return OPTForCausalLM(config)


def compute_with_threads(compute, counts=(1, 2, 3)):
    """Return the results of a function for several numbers of threads."""
    threads = torch.get_num_threads()
    results = []
    try:
        for count in counts:
            torch.set_num_threads(count)
            results.append(compute())
    finally:
        torch.set_num_threads(threads)
    return results


MODELS = {"llama": make_llama, "gpt2": make_gpt2, "phi3": make_phi3, "opt": make_opt}


@pytest.fixture
def make_model():
    """Return a function that makes a small model with large weights, so that differences are visible."""

    def make(kind="llama", dtype=torch.float32, **options):
        torch.manual_seed(0)
        model = MODELS[kind](**options).to(dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)
        return model

    return make
