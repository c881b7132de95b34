"""Finding the module in which NaN or Inf appears first."""

import pytest
import torch

from sparsedial.errors import NonFiniteOutputError
from sparsedial.inference.generation import Prompt
from sparsedial.inference.generation_engine import generate
from sparsedial.inference.loglikelihood import compute_loglikelihoods
from sparsedial.inference.nonfinite_outputs import GenerationCheck, find_origin, predict_tokens
from sparsedial.inference.prefix_tree import Window


class NoTokenizer:
    """The part of a tokenizer that generation without stop strings needs."""

    pad_token_id = 0
    eos_token_id = 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_predictions_are_the_arg_max_and_flag_unusable_logits(dtype):
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = logits.argmax(-1)
    logits[0, -1] = torch.nan
    logits[1, 0] = torch.inf
    logits[2] = -torch.inf
    logits[3, (expected[3] + 1) % 7] = -torch.inf  # a token that the model excludes
    predictions, is_finite = predict_tokens(logits)
    assert is_finite.tolist() == [False, False, False, True, True]
    assert torch.equal(predictions[3:], expected[3:])


def test_the_innermost_module_is_found_and_no_hook_stays(own_llama, tokens):
    own_llama.model.layers[2].self_attn.o_proj.weight.data[1, 1] = torch.nan
    origin = find_origin(own_llama, lambda: own_llama(tokens))
    assert origin.module == "model.layers.2.self_attn.o_proj"
    assert origin.parameters == {"weight": 1}
    assert not any(module._forward_hooks for module in own_llama.modules())


def test_finite_outputs_have_no_origin(llama, tokens):
    assert find_origin(llama, lambda: llama(tokens)) is None


def test_a_loglikelihood_next_to_an_infinite_logit_is_nan(own_llama):
    windows = [Window([3, 4], [5])]
    own_llama.lm_head.weight.data[9] = torch.inf
    [[score]] = compute_loglikelihoods(own_llama, [windows], max_length=10)
    assert score.loglikelihood != score.loglikelihood


@pytest.mark.parametrize("options", [{}, {"do_sample": True}])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_generation_with_unusable_logits_names_the_module(own_llama, options, value):
    own_llama.lm_head.weight.data[9] = value
    prompts = [Prompt([3, 4, 5], (), 4, options), Prompt([6], (), 4, options)]
    with pytest.raises(NonFiniteOutputError, match=r"lm_head \(Linear\): its weight contains 32 NaN or Inf"):
        generate(own_llama, NoTokenizer(), prompts)


def test_a_generation_check_keeps_the_steps_apart():
    check = GenerationCheck()
    check(None, torch.zeros(2, 3))
    replaced = check(None, torch.tensor([[0.0, 1.0, 2.0], [0.0, torch.nan, 2.0]]))
    assert replaced.tolist() == [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    assert check.is_finite().tolist() == [[True, True], [True, False]]


PROMPTS = [Prompt([3, 4, 5, 3], (), 4), Prompt([6, 8], (), 4)]


def test_nan_in_the_padding_of_generated_texts_changes_nothing(own_llama):
    first, second = generate(own_llama, NoTokenizer(), PROMPTS)
    end_token = first.tokens[1]
    assert end_token != second.tokens[1], "the rows must end at different steps"
    own_llama.generation_config.eos_token_id = end_token  # the first row reads padding after its end
    expected = generate(own_llama, NoTokenizer(), PROMPTS)
    own_llama.model.embed_tokens.weight.data[[0, 2]] = torch.nan  # the tokenizer's padding and end tokens
    assert generate(own_llama, NoTokenizer(), PROMPTS) == expected


def test_nan_in_the_padding_of_scored_windows_changes_nothing(own_llama):
    groups = [[Window([3, 4, 5], [6])], [Window([7], [8])]]
    expected = compute_loglikelihoods(own_llama, groups, max_length=10)
    own_llama.model.embed_tokens.weight.data[0] = torch.nan
    assert compute_loglikelihoods(own_llama, groups, max_length=10) == expected
