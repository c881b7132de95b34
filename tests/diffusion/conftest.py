"""Tiny diffusion models, random."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # llada_shaped and toys, wherever pytest was started

from sparsedial.diffusion.model import MaskedDiffusionLlama, MaskedDiffusionLlamaConfig
from sparsedial.models import LanguageModel
from sparsedial.sources import Source

MASK = 95
SIZES = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "mask_token_id": MASK,
         "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip


@pytest.fixture(scope="session")
def masked_llama():
    """Bidirectional, with a mask token."""
    torch.manual_seed(0)
    return MaskedDiffusionLlama(MaskedDiffusionLlamaConfig(**SIZES)).eval()


@pytest.fixture(scope="session")
def masked_lm(masked_llama):
    """The same as a loaded model, without a tokenizer."""
    source = Source("tiny-diffusion", Path(), "test", "0" * 64)
    return LanguageModel(masked_llama, None, source, "float32", torch.device("cpu"), "masked-diffusion", MASK)
