"""Requests that a masked diffusion model answers: by Monte Carlo, and by denoising."""

import numpy as np
import pytest
import torch

from sparsedial.errors import ModelError, SpecError, TaskError
from sparsedial.inference import masked_diffusion_backend
from sparsedial.inference.backend_factory import make_backend
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.diffusion_options import DiffusionOptions
from sparsedial.inference.generation import Prompt
from sparsedial.inference.masked_diffusion import DenoisingResult, denoise
from sparsedial.inference.masked_diffusion_backend import MaskedDiffusionBackend
from sparsedial.inference.masked_diffusion_likelihood import estimate_loglikelihoods
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import RunContext
from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source


@pytest.fixture(scope="module")
def lm():
    return load_language_model(resolve_source("zoo:diffusion-1.3m"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def model(lm):
    return MaskedDiffusionModel.from_language_model(lm)


def score(lm, options, groups, need_greedy=False, max_length=256, run=None):
    backend = make_backend(lm, options)
    return backend.loglikelihoods(
        groups,
        max_length=max_length,
        max_shared_length=backend.max_shared_length([], max_length=100, batch_tokens=512),
        need_greedy=need_greedy,
        run=run or RunContext(),
    )


def test_log_likelihoods_are_monte_carlo_estimates(lm, model):
    groups = [[Window([5, 6, 7], [8, 9]), Window([5, 6, 7], [10])], [Window([3], [4, 5])]]
    options = DiffusionOptions(DenoisingConfig(guidance=0.5), mc_samples=8)
    scores = score(lm, options, groups, run=RunContext(seed=3))
    expected = estimate_loglikelihoods(model, [*groups[0], *groups[1]], samples=8, guidance=0.5, run=RunContext(seed=3))
    assert list(map(len, scores)) == [2, 1]
    flat = [*scores[0], *scores[1]]
    np.testing.assert_allclose([window_score.loglikelihood for window_score in flat], expected, rtol=1e-6)
    assert not any(window_score.is_greedy for window_score in flat)  # not asked for, and one forward pass per token


def test_greedy_continuations_are_recognized_on_request(lm, model):
    prompt = torch.tensor([[5, 6, 7]])
    generated = denoise(model, prompt, 2, DenoisingConfig(), [0]).tokens[0, 3:].tolist()
    groups = [[Window([5, 6, 7], generated), Window([5, 6, 7], [generated[0], generated[1] + 1])]]
    reports = []
    run = RunContext(progress=lambda completed, total: reports.append((completed, total)))
    [scores] = score(lm, DiffusionOptions(mc_samples=4), groups, need_greedy=True, run=run)
    assert [window_score.is_greedy for window_score in scores] == [True, False]
    assert reports[-1] == (2 * 4 + 2, 2 * 4 + 2)


def test_long_windows_lose_the_beginning_of_their_context(lm, model):
    context = list(range(2, 300))
    [[window_score]] = score(lm, DiffusionOptions(mc_samples=4), [[Window(context, [5, 6])]])
    [expected] = estimate_loglikelihoods(model, [Window(context[-254:], [5, 6])], samples=4)
    assert window_score.loglikelihood == pytest.approx(expected)


def test_a_text_ends_at_the_end_token_or_the_limit(lm, monkeypatch):
    continuations = iter([[5, 6, 0, 7], [5, 6, 7, 8], lm.tokenizer(" up. The")["input_ids"]])

    def fill_in(model, prompts, length, config, seeds, run):
        tokens = torch.cat([prompts, torch.tensor([next(continuations)])], 1)
        return DenoisingResult(tokens, torch.zeros_like(tokens))

    monkeypatch.setattr(masked_diffusion_backend, "denoise", fill_in)
    prompts = [Prompt([3] * length, (".",), 4) for length in (4, 3, 2)]
    texts = make_backend(lm).generate(prompts, RunContext())
    assert [text.stopped for text in texts] == [True, False, True]
    assert texts[0].tokens == [5, 6, 0]
    assert len(texts[1].tokens) == 4


def test_texts_do_not_depend_on_the_batch(lm):
    backend = make_backend(lm)
    prompts = [Prompt([5, 6, 7], (), 4), Prompt([8, 9, 10], (), 4), Prompt([8, 9], (), 4)]
    prompts += [Prompt([5, 6], (), 4, {"do_sample": True, "temperature": 1.0})]
    texts = backend.generate(prompts, RunContext(seed=1))
    assert backend.generate(prompts, RunContext(seed=1, batch_tokens=1)) == texts
    assert backend.generate(prompts, RunContext(seed=2))[:3] == texts[:3]  # nothing else is sampled


def test_a_schedule_that_does_not_fit_is_an_error(lm):
    for config, message in (
        (DenoisingConfig(block_length=5), "block length 5 does not divide 12 tokens"),
        (DenoisingConfig(steps=24), "24 denoising steps for 12 tokens"),
    ):
        backend = make_backend(lm, DiffusionOptions(config))
        backend.check_requests("choice", needs_loglikelihoods=True, generation_lengths=[])
        with pytest.raises(SpecError, match=message):
            backend.check_requests("writing", needs_loglikelihoods=False, generation_lengths=[12])


def test_sampling_options_that_denoising_does_not_support_are_an_error(lm):
    prompt = Prompt([5, 6], (), 4, {"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    with pytest.raises(TaskError, match="generation options top_p"):
        make_backend(lm).generate([prompt], RunContext())


def test_a_model_of_another_kind_is_an_error(trained):
    with pytest.raises(ModelError, match=r"causal.*masked-diffusion"):
        MaskedDiffusionBackend(trained)
