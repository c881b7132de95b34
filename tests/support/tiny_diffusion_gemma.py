"""A small random block diffusion model, and the marks of all tests that use it."""

from pathlib import Path

import pytest
import torch
import transformers

import sparsedial as sd
from sparsedial.ffn.feed_forward import FFNs
from sparsedial.models.loading import LanguageModel
from sparsedial.models.sources import Source

BLOCK_DIFFUSION_MARKS = [
    pytest.mark.skipif(
        not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"), reason="this transformers has no diffusion_gemma"
    ),
    # transformers' own generate causes this warning.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]


def make_diffusion_gemma():
    """Return a model with blocks of 8 tokens, 2 layers, and 4 experts per layer."""
    from transformers import DiffusionGemmaConfig, DiffusionGemmaTextConfig, Gemma4VisionConfig

    text_config = DiffusionGemmaTextConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, global_head_dim=16, sliding_window=16, num_experts=4, top_k_experts=2,
        moe_intermediate_size=16, max_position_embeddings=256, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    vision_config = Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    torch.manual_seed(0)
    config = DiffusionGemmaConfig(text_config=text_config, vision_config=vision_config, canvas_length=8)
    return transformers.DiffusionGemmaForBlockDiffusion(config).eval()


def as_language_model(model, tokenizer=None):
    """Return the model as if it had been loaded."""
    source = Source("gemma", Path(), "test", "0" * 64)
    return LanguageModel(model, tokenizer, source, "float32", torch.device("cpu"), "block-diffusion")


def find_dense_ffns(model):
    """Return the FFNs that are not experts."""
    return FFNs([ffn for ffn in sd.find_ffns(model) if ffn.expert is None])
