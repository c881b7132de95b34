"""Text generation with causal models."""

import pytest
import torch
from transformers import LlamaForCausalLM

from sparsedial.errors import TaskError
from sparsedial.inference.generation import Prompt
from sparsedial.inference.generation_engine import generate
from sparsedial.inference.run_context import RunContext


def test_sampling_is_seeded_and_keeps_the_global_generator(trained):
    prompt = Prompt([5, 6, 7], (), 8, {"do_sample": True, "temperature": 1.0})
    state = torch.get_rng_state()
    texts = []
    for seed in (1, 1, 2):
        [text] = generate(trained.model, trained.tokenizer, [prompt], RunContext(seed=seed))
        texts.append(text)
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(len(text.tokens) <= 8 for text in texts)


def test_texts_do_not_depend_on_the_batch(trained):
    prompts = [Prompt([5, 6, 7][:length], ("e",), limit) for length, limit in ((3, 8), (1, 8), (2, 5), (3, 5))]
    texts = generate(trained.model, trained.tokenizer, prompts)
    for prompt, text in zip(prompts, texts, strict=True):
        assert generate(trained.model, trained.tokenizer, [prompt]) == [text]


def test_a_text_ends_with_the_first_stop_string(trained):
    prompt = Prompt([5, 6, 7], (), 12)
    [unlimited] = generate(trained.model, trained.tokenizer, [prompt])
    stop = trained.tokenizer.decode(unlimited.tokens[3:5])
    [text] = generate(trained.model, trained.tokenizer, [Prompt([5, 6, 7], (stop,), 12)])
    assert text.stopped
    assert text.tokens == unlimited.tokens[: len(text.tokens)]
    assert stop in trained.tokenizer.decode(text.tokens)
    assert stop not in trained.tokenizer.decode(text.tokens[:-1])


def test_unknown_options_are_an_error(trained):
    with pytest.raises(TaskError, match=r"rejects the options \{'temprature': 1.0\}"):
        generate(trained.model, trained.tokenizer, [Prompt([5], (), 4, {"temprature": 1.0})])


SAMPLED = {"do_sample": True, "temperature": 1.0}


def test_repeated_prompts_are_sampled_independently_of_the_batches(trained):
    prompts = [Prompt([5, 6, 7], (), 12, SAMPLED)] * 6 + [Prompt([8, 9], (), 12, SAMPLED)]
    expected = generate(trained.model, trained.tokenizer, prompts, RunContext(seed=1))
    assert len({tuple(text.tokens) for text in expected[:6]}) == 6
    for batch_tokens in (1, 40, 100):
        run = RunContext(seed=1, batch_tokens=batch_tokens)
        assert generate(trained.model, trained.tokenizer, prompts, run) == expected
    # Other prompts do not matter either.
    [alone] = generate(trained.model, trained.tokenizer, prompts[-1:], RunContext(seed=1))
    assert alone == expected[-1]


@pytest.mark.parametrize(
    "options", [{"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.5, "temperature": 1.5}, {"min_p": 0.2}]
)
def test_sampled_frequencies_are_the_probabilities_of_the_models_generate(trained, options):
    count = 1500
    options = {"do_sample": True, "top_k": 0, **options}
    prompt = torch.tensor([[5, 6, 7]])
    output = trained.model.generate(
        prompt, max_new_tokens=1, output_scores=True, return_dict_in_generate=True, pad_token_id=0, **options
    )
    expected = output.scores[0][0].softmax(-1)
    texts = generate(trained.model, trained.tokenizer, [Prompt([5, 6, 7], (), 1, options)] * count)
    observed = torch.bincount(torch.tensor([text.tokens[0] for text in texts]), minlength=len(expected)) / count
    error = (expected * (1 - expected) / count).sqrt()
    assert ((observed - expected).abs() < 5 * error + 2e-3).all()
    assert not observed[expected == 0].any()


@pytest.mark.parametrize(
    "options", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}, {"prompt_lookup_num_tokens": 3}]
)
def test_other_decoding_methods_are_an_error(trained, options):
    with pytest.raises(TaskError, match="expected greedy decoding or sampling of one text per prompt"):
        generate(trained.model, trained.tokenizer, [Prompt([5], (), 4, options)])


class OwnGenerate(LlamaForCausalLM):
    """A model whose method `generate` has a loop of its own and ignores what it does not know."""

    def generate(self, input_ids, max_new_tokens=5, **_):
        for _ in range(max_new_tokens):
            next_tokens = self(input_ids=input_ids).logits[:, -1:].argmax(-1)
            input_ids = torch.cat([input_ids, next_tokens], 1)
        return input_ids


def test_a_model_with_a_loop_of_its_own_is_refused(trained):
    with pytest.raises(TaskError, match="OwnGenerate has a method generate of its own that does not take custom_gen"):
        generate(OwnGenerate(trained.model.config).eval(), trained.tokenizer, [Prompt([5, 6], (), 4)])


def test_a_model_without_generation_configuration_is_refused(trained):
    model = LlamaForCausalLM(trained.model.config).eval()
    model.generation_config = None
    with pytest.raises(TaskError, match="LlamaForCausalLM has no generation configuration"):
        generate(model, trained.tokenizer, [Prompt([5, 6], (), 4)])
