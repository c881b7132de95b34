"""Monte Carlo log-likelihoods against exact ones."""

import math

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.inference.masked_diffusion_likelihood import check_greedy, estimate_loglikelihoods
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import RunContext
from tests.support.diffusion_toys import JointDistributionModel

THREE_TOKENS = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(1)) ** 2 + 0.02


@pytest.fixture
def model(masked_llama):
    return MaskedDiffusionModel(masked_llama, 95)


def estimate(toy, window, samples, seed=0):
    model = MaskedDiffusionModel(toy, toy.mask_token)
    [loglikelihood] = estimate_loglikelihoods(model, [window], samples=samples, run=RunContext(seed=seed))
    return loglikelihood


def test_the_mean_is_the_exact_log_likelihood():
    toy = JointDistributionModel(THREE_TOKENS)
    for tokens, probability in list(toy.sequences())[::3]:
        estimates = [estimate(toy, Window([], tokens), samples=6, seed=seed) for seed in range(120)]
        standard_error = np.std(estimates) / math.sqrt(len(estimates))
        assert abs(np.mean(estimates) - math.log(probability)) < 4 * standard_error + 1e-9
        assert standard_error > 0


def test_a_continuation_is_scored_given_its_context():
    toy = JointDistributionModel(THREE_TOKENS)
    exact = math.log(float(toy.joint[1, 0, 1]) / float(toy.joint[1].sum()))
    estimates = [estimate(toy, Window([1], [0, 1]), samples=4, seed=seed) for seed in range(200)]
    assert abs(np.mean(estimates) - exact) < 4 * np.std(estimates) / math.sqrt(200) + 1e-9


def test_one_token_is_exact_with_any_number_of_samples():
    toy = JointDistributionModel(THREE_TOKENS)
    exact = math.log(float(toy.joint[1, 0, 1] / toy.joint[1, 0].sum()))
    assert estimate(toy, Window([1, 0], [1]), samples=1) == pytest.approx(exact, abs=1e-6)


def test_equal_independent_tokens_are_exact_with_any_masks():
    joint = torch.einsum("a,b,c->abc", *torch.tensor([[0.2, 0.8]] * 3))
    loglikelihood = estimate(JointDistributionModel(joint), Window([], [1, 1, 1]), samples=5)
    assert loglikelihood == pytest.approx(3 * math.log(0.8), abs=1e-6)


def test_the_numbers_of_masks_are_spread_evenly_over_the_samples():
    toy = JointDistributionModel(torch.ones(2, 2, 2, 2))
    estimate(toy, Window([], [0, 1, 0, 1]), samples=8)
    counts = torch.cat(toy.calls).eq(toy.mask_token).sum(1).tolist()
    assert sorted(counts) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_masks_depend_on_the_seed_and_the_tokens_alone(model):
    windows = [Window([5, 6, 7], [8, 9, 10, 11]), Window([5], [12, 13, 14]), Window([], [3, 4])]
    batch = estimate_loglikelihoods(model, windows, samples=7, run=RunContext(seed=3))
    one_by_one = []
    for window in windows:
        run = RunContext(seed=3, batch_tokens=1)
        one_by_one += estimate_loglikelihoods(model, [window], samples=7, run=run)
    np.testing.assert_allclose(batch, one_by_one, rtol=1e-5)
    assert estimate_loglikelihoods(model, windows, samples=7, run=RunContext(seed=4)) != batch


def test_guidance_pushes_away_from_the_model_without_the_context(model):
    masked = torch.tensor([[5, 6, 7, 95], [95, 95, 95, 95]])
    with torch.no_grad():
        conditional, unconditional = model.model(masked).logits[:, -1].double()
    expected = (unconditional + 3 * (conditional - unconditional)).log_softmax(-1)[8]
    [loglikelihood] = estimate_loglikelihoods(model, [Window([5, 6, 7], [8])], samples=3, guidance=2.0)
    assert loglikelihood == pytest.approx(float(expected), abs=1e-4)


def test_at_p_one_it_is_the_same_bit_for_bit(model):
    windows = [Window([5, 6, 7], [8, 9, 10, 11]), Window([5], [12, 13, 14])]
    dense = estimate_loglikelihoods(model, windows, samples=5)
    with sd.sparsify(model.model, "all_inputs", sd.TopP(1.0)) as sparsifier:
        assert estimate_loglikelihoods(model, windows, samples=5, run=RunContext(sparsifier)) == dense
    table = sparsifier.stats()
    assert set(table["phase"]) == {"prefill"}
    assert table["step"].isna().all()
    assert set(table.loc[table["vector"] == "input", "total"]) == {5 * (7 + 4) * 32}


def test_greedy_continuations_are_those_that_denoising_generates():
    toy = JointDistributionModel(torch.tensor([[0.0, 0.30, 0.25], [0.40, 0.0, 0.0], [0.0, 0.05, 0.0]]))
    windows = [Window([], [0, 1]), Window([], [1, 0]), Window([], [0, 2])]
    assert check_greedy(MaskedDiffusionModel(toy, toy.mask_token), windows) == [True, False, False]


@pytest.mark.parametrize(
    ("window", "samples", "message"),
    [
        (Window([], [1]), 0, "samples 0: expected at least 1"),
        (Window([1], []), 4, "a continuation without tokens"),
    ],
)
def test_nothing_to_score_is_an_error(model, window, samples, message):
    with pytest.raises(SpecError, match=message):
        estimate_loglikelihoods(model, [window], samples=samples)
