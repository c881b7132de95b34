"""Filling masks in, on models whose answers are known; and what the dial is told meanwhile."""

import pytest
import torch
from toys import Toy

import sparsedial as sd
from sparsedial.diffusion.sampler import Denoising, fill_in
from sparsedial.errors import SpecError

NOTHING = torch.zeros(1, 0, dtype=torch.int64)
# p(01) = .30, p(02) = .25, p(10) = .40, p(21) = .05: the marginals' arg max is 0 at both places, which is impossible.
TWO = torch.tensor([[0.0, 0.30, 0.25], [0.40, 0.0, 0.0], [0.0, 0.05, 0.0]])


def one(toy, how, seed=0, length=None):
    return fill_in(toy, NOTHING, length or toy.length, toy.mask, how, [seed])


def test_the_surest_token_comes_first_and_the_next_step_knows_it():
    made = one(Toy(TWO), Denoising())
    assert made.tokens.tolist() == [[0, 1]]  # .55 for 0 at the first place beats .40; then 1, with .30 / .55
    assert made.step.tolist() == [[0, 1]]


def test_in_one_step_every_token_is_the_marginals_arg_max():
    made = one(Toy(TWO), Denoising(steps=1))
    assert (made.tokens.tolist(), made.step.tolist()) == ([[0, 0]], [[0, 0]])


def test_the_optimum_of_independent_tokens_is_found_by_every_schedule():
    table = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) + 0.01
    joint = torch.einsum("a,b,c,d->abcd", *table)
    for how in (Denoising(), Denoising(steps=2), Denoising(block=2), Denoising(remasking="random"), Denoising(1)):
        assert one(Toy(joint), how).tokens.tolist() == [table.argmax(1).tolist()], how


def test_a_block_is_finished_before_the_next_begins():
    joint = torch.einsum("a,b,c,d->abcd", *torch.tensor([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.8, 0.2]]))
    assert one(Toy(joint), Denoising(block=2)).step.tolist() == [[1, 0, 2, 3]]
    assert one(Toy(joint), Denoising()).step.tolist() == [[3, 2, 0, 1]]
    assert one(Toy(joint), Denoising(steps=2, block=2)).step.tolist() == [[0, 0, 1, 1]]


def test_at_temperature_one_in_random_order_the_samples_follow_the_distribution():
    toy, count = Toy(TWO), 3000
    made = fill_in(
        toy, NOTHING.expand(count, 0), 2, toy.mask, Denoising(remasking="random", temperature=1.0), range(count)
    )
    seen = torch.zeros(3, 3, dtype=torch.float64)
    seen.index_put_(tuple(made.tokens.T), torch.ones(count, dtype=torch.float64), accumulate=True)
    error = (toy.joint * (1 - toy.joint) / count).sqrt()
    assert ((seen / count - toy.joint).abs() <= 5 * error).all()  # and what is impossible was never seen
    assert 0.4 < made.step.double().mean(0)[0] < 0.6  # either place came first as often


def test_low_confidence_prefers_sure_samples_where_random_does_not():
    joint = torch.einsum("a,b->ab", torch.tensor([0.99, 0.01]), torch.tensor([0.5, 0.5]))
    toy, count = Toy(joint), 200
    how = Denoising(temperature=1.0)
    made = fill_in(toy, NOTHING.expand(count, 0), 2, toy.mask, how, range(count))
    assert (made.step[:, 0] == 0).double().mean() > 0.95


def test_rows_follow_their_seeds_in_any_batch(masked_llama):
    prompts = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    how = Denoising(steps=4, remasking="random", temperature=1.0)
    all_ = fill_in(masked_llama, prompts, 8, 95, how, [3, 4, 5]).tokens
    alone = fill_in(masked_llama, prompts[1:2], 8, 95, how, [4]).tokens
    assert torch.equal(all_[1:2], alone)
    assert not torch.equal(all_, fill_in(masked_llama, prompts, 8, 95, how, [6, 7, 8]).tokens)
    assert (all_ != 95).all()
    assert torch.equal(all_[:, :3], prompts)


def test_guidance_is_unconditional_plus_w_plus_one_times_the_difference():
    toy = Toy(torch.ones(3, 3), before=1)
    prompt = torch.tensor([[1]])
    table = {False: torch.tensor([0.0, 3.0, 2.0, -9.0]), True: torch.tensor([0.0, 3.0, 0.0, -9.0])}

    def forward(input_ids):
        toy.calls.append(input_ids.clone())
        rows = [table[row[0] == 3].expand(3, 4) for row in input_ids.tolist()]  # 3 is the mask: without the prompt
        return type("Out", (), {"logits": torch.stack(rows)})

    toy.forward = forward
    plain, pushed = (fill_in(toy, prompt, 2, 3, Denoising(guidance=w), [0]).tokens[0, 1:] for w in (0.0, 1.0))
    assert plain.tolist() == [1, 1]
    assert pushed.tolist() == [2, 2]  # 0 + 2 (2 - 0) = 4 beats 3 + 2 (3 - 3) = 3
    assert toy.calls[-1][:, 0].tolist() == [1, 3]  # one forward, the second row without the prompt


@pytest.mark.parametrize("site", ["input", "intermediate", "all_inputs"])
def test_at_p_one_everything_is_the_same_bit_for_bit(masked_llama, site):
    prompts, how = torch.tensor([[5, 6, 7]]), Denoising(steps=4, temperature=1.0, guidance=0.5)
    dense = fill_in(masked_llama, prompts, 8, 95, how, [0])
    with torch.no_grad():
        logits = masked_llama(dense.tokens).logits
    with sd.sparsify(masked_llama, site, sd.TopP(1.0)) as dial:
        sparse = fill_in(masked_llama, prompts, 8, 95, how, [0], dial=dial)
        with torch.no_grad():
            assert torch.equal(masked_llama(dense.tokens).logits, logits)
    assert torch.equal(sparse.tokens, dense.tokens)
    assert torch.equal(sparse.step, dense.step)


def test_the_dial_is_told_the_step_and_every_token_counts(masked_llama):
    prompts = torch.tensor([[5, 6, 7], [7, 8, 9]])
    with sd.sparsify(masked_llama, "input", sd.TopK(0.5)) as dial:
        fill_in(masked_llama, prompts, 8, 95, Denoising(steps=4, block=4), [0, 1], dial=dial)
    table = dial.stats()
    assert set(table["phase"]) == {"generation"}
    assert sorted(set(table["step"])) == [0, 1, 2, 3]
    assert set(table["total"]) == {2 * 11 * 32}
    assert set(table["sparsity"]) == {0.5}


@pytest.mark.parametrize(
    ("how", "length", "message"),
    [
        ({"steps": 0}, 8, "denoising steps 0: expected at least 1"),
        ({"block": 0}, 8, "block length 0: expected at least 1"),
        ({"block": 3}, 8, "block length 3 does not divide 8 tokens"),
        ({"block": 16}, 8, "block length 16 does not divide 8 tokens"),
        ({"block": 2, "steps": 6}, 8, "4 blocks do not divide 6 denoising steps"),
        ({"steps": 9}, 8, "9 denoising steps for 8 tokens"),
        ({"block": 4, "steps": 16}, 8, "16 denoising steps for 8 tokens: 8 steps for each block of 4"),
        ({"remasking": "high"}, 8, "remasking 'high': expected low_confidence or random"),
        ({"temperature": -1.0}, 8, "temperature -1.0: expected a number, 0 or more"),
        ({"guidance": float("nan")}, 8, "guidance nan: expected a number, 0 or more"),
    ],
)
def test_a_schedule_that_cannot_be_says_why(masked_llama, how, length, message):
    with pytest.raises(SpecError, match=message):
        fill_in(masked_llama, NOTHING, length, 95, Denoising(**how), [0])
