"""Tiny models, built once: random where only the mechanics matter."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

SIZES = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
DECODER = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
           "num_key_value_heads": 2, "max_position_embeddings": 128, **SIZES}  # fmt: skip


collect_ignore_glob = ["conftest.py", "*/conftest.py"]  # no doctests here, and they share a name


def _seeded(build):
    torch.manual_seed(0)
    return build().eval()


@pytest.fixture(scope="session")
def llama():
    """A gated FFN with separate projections."""
    return _seeded(lambda: LlamaForCausalLM(LlamaConfig(**DECODER)))


@pytest.fixture
def own_llama():
    """The same model, for a test that changes it."""
    return _seeded(lambda: LlamaForCausalLM(LlamaConfig(**DECODER)))


@pytest.fixture(scope="session")
def phi3():
    """A gated FFN with gate and up fused in one projection."""
    return _seeded(lambda: Phi3ForCausalLM(Phi3Config(**DECODER)))


@pytest.fixture(scope="session")
def gpt2():
    """A plain FFN out of Conv1D."""
    return _seeded(lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=128, **SIZES)))


@pytest.fixture(scope="session")
def trained():
    """A small model that was trained, with its tokenizer: the zoo's smallest."""
    from sparsedial.models import load_model
    from sparsedial.sources import find_model

    return load_model(find_model("zoo:dense-0.4m"), device="cpu", dtype="float32")


@pytest.fixture
def tokens():
    """Four rows of twelve token ids, none of them special."""
    return torch.randint(3, 96, (4, 12), generator=torch.Generator().manual_seed(1))
