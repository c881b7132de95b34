"""Log-likelihoods of causal models, with and without shared prefixes."""

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from sparsedial.inference.loglikelihood import compute_loglikelihoods
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import RunContext

WINDOWS = [Window([5, 6, 7], [8, 9]), Window([5, 6, 7], [8, 10]), Window([5, 6, 7], [9])]


def loglikelihoods(model, max_shared_length=0):
    [scores] = compute_loglikelihoods(model, [WINDOWS], max_length=100, max_shared_length=max_shared_length)
    return [score.loglikelihood for score in scores]


@pytest.mark.parametrize("model", ["llama", "phi3", "gpt2"])
def test_sharing_changes_no_log_likelihood(request, model):
    model = request.getfixturevalue(model)
    np.testing.assert_allclose(loglikelihoods(model, 100), loglikelihoods(model, 0), atol=1e-4)


def test_the_definition(llama):
    [[score]] = compute_loglikelihoods(llama, [WINDOWS[:1]], max_length=100)
    with torch.no_grad():
        log_probabilities = llama(torch.tensor([[5, 6, 7, 8]])).logits[0].log_softmax(-1)
    expected = log_probabilities[2, 8] + log_probabilities[3, 9]
    assert score.loglikelihood == pytest.approx(float(expected), abs=1e-5)


def test_greedy_continuations_are_recognized(llama):
    with torch.no_grad():
        prediction = int(llama(torch.tensor([[5, 6, 7]])).logits[0, -1].argmax())
    windows = [Window([5, 6, 7], [prediction]), Window([5, 6, 7], [prediction - 1])]
    [scores] = compute_loglikelihoods(llama, [windows], max_length=100, max_shared_length=100)
    assert [score.is_greedy for score in scores] == [True, False]


def test_windows_do_not_influence_each_other_if_the_model_cannot_share():
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=96)).eval()
    for window, loglikelihood in zip(WINDOWS, loglikelihoods(bloom), strict=True):
        [[score]] = compute_loglikelihoods(bloom, [[window]], max_length=100)
        assert loglikelihood == pytest.approx(score.loglikelihood, abs=1e-4)


def test_the_order_and_the_progress_are_those_of_the_windows(llama):
    reports = []
    run = RunContext(progress=lambda completed, total: reports.append((completed, total)), batch_tokens=4)
    groups = [[], [WINDOWS[0]], [Window([3], [4]), WINDOWS[2]]]
    scores = compute_loglikelihoods(llama, groups, max_length=100, run=run)
    assert list(map(len, scores)) == [0, 1, 2]
    assert reports[-1] == (3, 3)
    for group, group_scores in zip(groups, scores, strict=True):
        for window, score in zip(group, group_scores, strict=True):
            [[expected]] = compute_loglikelihoods(llama, [[window]], max_length=100)
            assert score.loglikelihood == pytest.approx(expected.loglikelihood, abs=1e-4)
    assert compute_loglikelihoods(llama, [], max_length=100) == []
