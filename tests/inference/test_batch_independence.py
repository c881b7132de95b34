"""Models in which the rows of a batch change each other, because padding on the left is not masked."""

import pytest
import torch
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    TrOCRConfig,
    TrOCRForCausalLM,
)

from sparsedial.inference.batch_independence import BatchIndependence, check_batch_independence
from sparsedial.inference.generation import Prompt
from sparsedial.inference.generation_engine import generate

SIZES = {"vocab_size": 4096, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
LAYERS = {"hidden_size": 32, "num_hidden_layers": 2}
DECODER = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}


def build(name):
    """Return a random model with a recurrent state or with learned positions, whose logits differ clearly."""
    torch.manual_seed(0)
    if name == "rwkv":
        config = RwkvConfig(**LAYERS, **SIZES, attention_hidden_size=32, intermediate_size=64, context_length=64)
        model = RwkvForCausalLM(config)
    elif name == "trocr":
        model = TrOCRForCausalLM(TrOCRConfig(**DECODER, **SIZES, max_position_embeddings=64))
    else:
        model = MambaForCausalLM(MambaConfig(**LAYERS, **SIZES, state_size=8))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return model.eval()


@pytest.mark.parametrize(("name", "of_any_lengths"), [("rwkv", False), ("trocr", False), ("mamba", True)])
def test_texts_of_prompts_of_different_lengths_are_those_of_single_prompts(trained, name, of_any_lengths):
    model = build(name)
    assert check_batch_independence(model).of_any_lengths == of_any_lengths
    prompts = [Prompt(list(range(10, 10 + length)), (), 4, {"do_sample": False}) for length in (3, 11, 6, 11)]
    with pytest.warns(UserWarning, match="texts are generated in fixed batches"):
        together = generate(model, trained.tokenizer, prompts)
        alone = [generate(model, trained.tokenizer, [prompt])[0] for prompt in prompts]
    assert together == alone


def test_prompts_of_equal_length_are_batched_although_padding_is_read():
    assert check_batch_independence(build("trocr")) == BatchIndependence(of_equal_lengths=True, of_any_lengths=False)


def test_a_model_whose_generate_fails_is_not_restricted(own_llama):
    own_llama.generation_config = None
    assert check_batch_independence(own_llama).of_any_lengths
