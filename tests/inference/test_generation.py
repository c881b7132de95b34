"""Text generation with causal models."""

import pytest
import torch

from sparsedial.errors import TaskError
from sparsedial.inference.generation import Prompt, generate
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
