"""Denoising of models whose answers are known, and what the sparsifier learns about it."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError, TaskError
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.masked_diffusion import denoise
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel
from sparsedial.inference.run_context import RunContext
from tests.support.diffusion_toys import JointDistributionModel

EMPTY_PROMPT = torch.zeros(1, 0, dtype=torch.int64)
MASK = 95
# p(01) = .30, p(02) = .25, p(10) = .40, p(21) = .05. The arg max of both marginals is 0, and 00 is impossible.
TWO_TOKENS = torch.tensor([[0.0, 0.30, 0.25], [0.40, 0.0, 0.0], [0.0, 0.05, 0.0]])


@pytest.fixture
def model(masked_llama):
    return MaskedDiffusionModel(masked_llama, MASK)


def with_mask(toy):
    return MaskedDiffusionModel(toy, toy.mask_token)


def denoise_one(joint, config):
    toy = JointDistributionModel(joint)
    return denoise(with_mask(toy), EMPTY_PROMPT, toy.length, config, [0])


def test_the_most_confident_token_comes_first_and_the_next_step_knows_it():
    result = denoise_one(TWO_TOKENS, DenoisingConfig())
    assert result.tokens.tolist() == [[0, 1]]  # .55 for 0 at the first position beats .40; then 1, with .30 / .55
    assert result.step.tolist() == [[0, 1]]


def test_in_one_step_every_token_is_the_arg_max_of_its_marginal():
    result = denoise_one(TWO_TOKENS, DenoisingConfig(steps=1))
    assert result.tokens.tolist() == [[0, 0]]
    assert result.step.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    "settings", [{}, {"steps": 2}, {"block_length": 2}, {"remasking": "random"}, {"steps": 1}], ids=str
)
def test_every_schedule_finds_the_optimum_of_independent_tokens(settings):
    marginals = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) + 0.01
    joint = torch.einsum("a,b,c,d->abcd", *marginals)
    assert denoise_one(joint, DenoisingConfig(**settings)).tokens.tolist() == [marginals.argmax(1).tolist()]


def test_a_block_is_finished_before_the_next_begins():
    joint = torch.einsum("a,b,c,d->abcd", *torch.tensor([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.8, 0.2]]))
    assert denoise_one(joint, DenoisingConfig(block_length=2)).step.tolist() == [[1, 0, 2, 3]]
    assert denoise_one(joint, DenoisingConfig()).step.tolist() == [[3, 2, 0, 1]]
    assert denoise_one(joint, DenoisingConfig(steps=2, block_length=2)).step.tolist() == [[0, 0, 1, 1]]


def test_at_temperature_one_in_random_order_the_samples_follow_the_distribution():
    toy = JointDistributionModel(TWO_TOKENS)
    count = 3000
    config = DenoisingConfig(remasking="random", temperature=1.0)
    result = denoise(with_mask(toy), EMPTY_PROMPT.expand(count, 0), 2, config, range(count))
    counts = torch.zeros(3, 3, dtype=torch.float64)
    counts.index_put_(tuple(result.tokens.T), torch.ones(count, dtype=torch.float64), accumulate=True)
    standard_error = (toy.joint * (1 - toy.joint) / count).sqrt()
    assert ((counts / count - toy.joint).abs() <= 5 * standard_error).all()  # impossible sequences never occur
    assert 0.4 < result.step.double().mean(0)[0] < 0.6  # both positions come first equally often


def test_low_confidence_fills_in_confident_samples_first():
    joint = torch.einsum("a,b->ab", torch.tensor([0.99, 0.01]), torch.tensor([0.5, 0.5]))
    count = 200
    config = DenoisingConfig(temperature=1.0)
    result = denoise(with_mask(JointDistributionModel(joint)), EMPTY_PROMPT.expand(count, 0), 2, config, range(count))
    assert (result.step[:, 0] == 0).double().mean() > 0.95


def test_rows_depend_on_their_seeds_and_not_on_the_batch(model):
    prompts = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    config = DenoisingConfig(steps=4, remasking="random", temperature=1.0)
    batch = denoise(model, prompts, 8, config, [3, 4, 5]).tokens
    single = denoise(model, prompts[1:2], 8, config, [4]).tokens
    assert torch.equal(batch[1:2], single)
    assert not torch.equal(batch, denoise(model, prompts, 8, config, [6, 7, 8]).tokens)
    assert (batch != MASK).all()
    assert torch.equal(batch[:, :3], prompts)


def test_guidance_is_unconditional_plus_w_plus_one_times_the_difference():
    toy = JointDistributionModel(torch.ones(3, 3), prompt_length=1)
    prompt = torch.tensor([[1]])
    conditional = torch.tensor([0.0, 3.0, 2.0, -9.0])
    unconditional = torch.tensor([0.0, 3.0, 0.0, -9.0])

    def forward(input_ids):
        toy.calls.append(input_ids.clone())
        rows = [unconditional if row[0] == toy.mask_token else conditional for row in input_ids.tolist()]
        return type("Output", (), {"logits": torch.stack(rows)[:, None].expand(-1, 3, 4)})

    toy.forward = forward
    unguided = denoise(with_mask(toy), prompt, 2, DenoisingConfig(), [0]).tokens[0, 1:]
    guided = denoise(with_mask(toy), prompt, 2, DenoisingConfig(guidance=1.0), [0]).tokens[0, 1:]
    assert unguided.tolist() == [1, 1]
    assert guided.tolist() == [2, 2]  # 0 + 2 (2 - 0) = 4 beats 3 + 2 (3 - 3) = 3
    assert toy.calls[-1][:, 0].tolist() == [1, 3]  # one forward pass, whose second row lacks the prompt


@pytest.mark.parametrize("site", ["input", "intermediate", "all_inputs"])
def test_at_p_one_everything_is_the_same_bit_for_bit(model, site):
    prompts = torch.tensor([[5, 6, 7]])
    config = DenoisingConfig(steps=4, temperature=1.0, guidance=0.5)
    dense = denoise(model, prompts, 8, config, [0])
    with torch.no_grad():
        logits = model.model(dense.tokens).logits
    with sd.sparsify(model.model, site, sd.TopP(1.0)) as sparsifier:
        sparse = denoise(model, prompts, 8, config, [0], RunContext(sparsifier))
        with torch.no_grad():
            assert torch.equal(model.model(dense.tokens).logits, logits)
    assert torch.equal(sparse.tokens, dense.tokens)
    assert torch.equal(sparse.step, dense.step)


def test_the_sparsifier_learns_the_step_and_counts_every_token(model):
    prompts = torch.tensor([[5, 6, 7], [7, 8, 9]])
    with sd.sparsify(model.model, "input", sd.TopK(0.5)) as sparsifier:
        denoise(model, prompts, 8, DenoisingConfig(steps=4, block_length=4), [0, 1], RunContext(sparsifier))
    table = sparsifier.stats()
    assert set(table["phase"]) == {"generation"}
    assert sorted(set(table["step"])) == [0, 1, 2, 3]
    assert set(table["total"]) == {2 * 11 * 32}
    assert set(table["sparsity"]) == {0.5}


def test_progress_counts_steps(model):
    reports = []
    run = RunContext(progress=lambda completed, total: reports.append((completed, total)))
    denoise(model, EMPTY_PROMPT, 8, DenoisingConfig(steps=4, block_length=4), [0], run)
    assert reports == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_nan_logits_are_an_error():
    def forward(input_ids):
        return type("Output", (), {"logits": torch.full((*input_ids.shape, 4), torch.nan)})

    toy = JointDistributionModel(torch.ones(3, 3))
    toy.forward = forward
    with pytest.raises(TaskError, match="logits are NaN"):
        denoise(with_mask(toy), EMPTY_PROMPT, 2, DenoisingConfig(), [0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "denoising steps 0: expected at least 1"),
        ({"block_length": 0}, "block length 0: expected at least 1"),
        ({"block_length": 3}, "block length 3 does not divide 8 tokens"),
        ({"block_length": 16}, "block length 16 does not divide 8 tokens"),
        ({"block_length": 2, "steps": 6}, "4 blocks do not divide 6 denoising steps"),
        ({"steps": 9}, "9 denoising steps for 8 tokens"),
        ({"block_length": 4, "steps": 16}, "16 denoising steps for 8 tokens: 8 steps for each block of 4"),
        ({"remasking": "high"}, "remasking 'high': expected low_confidence or random"),
        ({"temperature": -1.0}, "temperature -1.0: expected a number, 0 or more"),
        ({"guidance": float("nan")}, "guidance nan: expected a number, 0 or more"),
    ],
)
def test_an_impossible_schedule_is_an_error_that_says_why(model, settings, message):
    with pytest.raises(SpecError, match=message):
        denoise(model, EMPTY_PROMPT, 8, DenoisingConfig(**settings), [0])
