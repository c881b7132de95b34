"""The number of positions and of token IDs that a model can read."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from sparsedial.inference.model_limits import max_positions
from sparsedial.inference.prefix_sharing_check import find_max_shared_length
from sparsedial.inference.prefix_tree import Window

ROBERTA = RobertaConfig(
    vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, is_decoder=True,
    max_position_embeddings=20,
)  # fmt: skip
OPT = OPTConfig(
    vocab_size=32, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=1, word_embed_proj_dim=8,
    max_position_embeddings=20,
)  # fmt: skip


@pytest.mark.parametrize(
    ("make_model", "expected"),
    [(lambda: RobertaForCausalLM(ROBERTA), 18), (lambda: OPTForCausalLM(OPT), 20)],
)
def test_learned_positions_are_limited_exactly(make_model, expected):
    model = make_model().eval()
    assert max_positions(model) == expected
    model(torch.full((1, expected), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, expected + 1), 5))


def test_a_model_without_positions_has_no_limit():
    model = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=8, n_layer=1, n_head=1))
    assert max_positions(model) is None


@pytest.mark.parametrize("positions", [4, 20])
def test_a_model_that_is_shorter_than_the_test_of_prefix_sharing_shares_nothing(positions):
    config = GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=1, n_positions=positions, bos_token_id=0)
    groups = [[Window([1, 2], [3]), Window([1, 2], [4, 5])]]
    model = GPT2LMHeadModel(config).eval()
    assert find_max_shared_length(model, groups, max_length=positions, batch_tokens=512) == 0
