"""Tiny models, built once: random where only the mechanics matter."""

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

hypothesis.settings.register_profile("untimed", deadline=None)  # no test depends on the speed of the machine
hypothesis.settings.load_profile("untimed")


def pytest_ignore_collect(collection_path, config):
    """Leave the tests of the documentation to `make docs`, which has what they need and names their folder."""
    is_documentation = collection_path == Path(__file__).parent / "docs"
    if is_documentation and not any("tests/docs" in argument for argument in config.args):
        return True
    return None


@pytest.fixture(autouse=True, scope="module")
def fast_garbage_collection():
    """Exclude the objects of imported modules from garbage collections, which a study requests for each model.

    They number more than a million, and a collection that visits them takes a second.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let the interpreter free them at its end. Otherwise, libraries in C++ report them as leaked."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def one_index_of_lm_eval():
    """Index the 14 000 tasks of lm-eval at most once, which takes seconds."""
    from tests.support.lm_eval_index import lm_eval_indexed_once

    with lm_eval_indexed_once():
        yield


SIZES = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MASK = 95
MASKED_SIZES = {**SIZES, "mask_token_id": MASK, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip
DECODER = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
           "num_key_value_heads": 2, "max_position_embeddings": 128, **SIZES}  # fmt: skip


def _seeded(build):
    torch.manual_seed(0)
    with torch.inference_mode(False):  # the first test that asks for a model may be in inference mode
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
    from sparsedial.models.loading import load_language_model
    from sparsedial.models.sources import resolve_source

    return load_language_model(resolve_source("zoo:dense-0.4m"), device="cpu", dtype="float32")


@pytest.fixture
def tokens():
    """Four rows of twelve token ids, none of them special."""
    return torch.randint(3, 96, (4, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def masked_llama():
    """A masked diffusion model, random."""
    from sparsedial.models.masked_diffusion_llama import MaskedDiffusionLlama, MaskedDiffusionLlamaConfig

    torch.manual_seed(0)
    return MaskedDiffusionLlama(MaskedDiffusionLlamaConfig(**MASKED_SIZES)).eval()


@pytest.fixture(scope="session")
def masked_lm(masked_llama):
    """The same as a loaded model, without a tokenizer."""
    from sparsedial.models.loading import LanguageModel
    from sparsedial.models.sources import Source

    source = Source("tiny-diffusion", Path(), "test", "0" * 64)
    return LanguageModel(masked_llama, None, source, "float32", torch.device("cpu"), "masked-diffusion", MASK)


@pytest.fixture
def registrations():
    """Undo the registrations of a test."""
    from tests.support.plugins import registrations_undone

    with registrations_undone():
        yield
