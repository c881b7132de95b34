"""Monte-Carlo log-likelihoods against exact ones."""

import math

import numpy as np
import pytest
import torch
from toys import Toy

import sparsedial as sd
from sparsedial.diffusion.likelihood import greedy, monte_carlo
from sparsedial.errors import SpecError

THREE = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(1)) ** 2 + 0.02


def test_the_mean_is_the_exact_log_likelihood():
    toy = Toy(THREE)
    for tokens, probability in list(toy.sequences())[::3]:
        estimates = [monte_carlo(toy, [([], tokens)], toy.mask, samples=6, seed=s)[0] for s in range(120)]
        error = np.std(estimates) / math.sqrt(len(estimates))
        assert abs(np.mean(estimates) - math.log(probability)) < 4 * error + 1e-9
        assert error > 0


def test_a_continuation_is_scored_given_its_context():
    toy = Toy(THREE)
    exact = math.log(float(toy.joint[1, 0, 1]) / float(toy.joint[1].sum()))
    estimates = [monte_carlo(toy, [([1], [0, 1])], toy.mask, samples=4, seed=s)[0] for s in range(200)]
    assert abs(np.mean(estimates) - exact) < 4 * np.std(estimates) / math.sqrt(200) + 1e-9


def test_one_token_is_exact_whatever_the_samples():
    toy = Toy(THREE)
    exact = math.log(float(toy.joint[1, 0, 1] / toy.joint[1, 0].sum()))
    assert monte_carlo(toy, [([1, 0], [1])], toy.mask, samples=1)[0] == pytest.approx(exact, abs=1e-6)


def test_equal_independent_tokens_are_exact_whatever_the_masks():
    joint = torch.einsum("a,b,c->abc", *torch.tensor([[0.2, 0.8]] * 3))
    [estimate] = monte_carlo(Toy(joint), [([], [1, 1, 1])], 2, samples=5)
    assert estimate == pytest.approx(3 * math.log(0.8), abs=1e-6)


def test_the_counts_are_spread_evenly_over_the_samples():
    toy = Toy(torch.ones(2, 2, 2, 2))
    monte_carlo(toy, [([], [0, 1, 0, 1])], toy.mask, samples=8)
    counts = torch.cat(toy.calls).eq(toy.mask).sum(1).tolist()
    assert sorted(counts) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_masks_depend_on_the_seed_and_the_tokens_alone(masked_llama):
    pairs = [([5, 6, 7], [8, 9, 10, 11]), ([5], [12, 13, 14]), ([], [3, 4])]
    same = {"samples": 7, "seed": 3}
    all_ = monte_carlo(masked_llama, pairs, 95, **same)
    alone = [monte_carlo(masked_llama, [pair], 95, batch_tokens=1, **same)[0] for pair in pairs]
    np.testing.assert_allclose(all_, alone, rtol=1e-5)
    assert monte_carlo(masked_llama, pairs, 95, samples=7, seed=4) != all_


def test_guidance_pushes_away_from_the_model_without_the_context(masked_llama):
    pair = ([5, 6, 7], [8])
    masked = torch.tensor([[5, 6, 7, 95], [95, 95, 95, 95]])
    with torch.no_grad():
        logits, un = masked_llama(masked).logits[:, -1].double()
    expected = (un + 3 * (logits - un)).log_softmax(-1)[8]
    assert monte_carlo(masked_llama, [pair], 95, samples=3, guidance=2.0)[0] == pytest.approx(float(expected), abs=1e-4)


def test_at_p_one_it_is_the_same_bit_for_bit(masked_llama):
    pairs = [([5, 6, 7], [8, 9, 10, 11]), ([5], [12, 13, 14])]
    dense = monte_carlo(masked_llama, pairs, 95, samples=5)
    with sd.sparsify(masked_llama, "all_inputs", sd.TopP(1.0)) as dial:
        assert monte_carlo(masked_llama, pairs, 95, samples=5, dial=dial) == dense
    table = dial.stats()
    assert set(table["phase"]) == {"prefill"}
    assert table["step"].isna().all()
    assert set(table.loc[table["site"] == "input", "total"]) == {5 * (7 + 4) * 32}


def test_greedy_is_what_the_sampler_says():
    toy = Toy(torch.tensor([[0.0, 0.30, 0.25], [0.40, 0.0, 0.0], [0.0, 0.05, 0.0]]))
    pairs = [([], [0, 1]), ([], [1, 0]), ([], [0, 2])]
    assert greedy(toy, pairs, toy.mask) == [True, False, False]


@pytest.mark.parametrize(
    ("pairs", "samples", "message"),
    [([([], [1])], 0, "samples 0: expected at least 1"), ([([1], [])], 4, "a continuation without tokens")],
)
def test_nothing_to_score_is_refused(masked_llama, pairs, samples, message):
    with pytest.raises(SpecError, match=message):
        monte_carlo(masked_llama, pairs, 95, samples=samples)
