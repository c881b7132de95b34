"""Masked self-prediction on the zoo's diffusion model."""

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.errors import ModelError, SpecError, TaskError
from sparsedial.hooks.step_overlap import KeptSetOverlap
from sparsedial.tasks.restoration import draw_masks
from tests.support.diffusion_tasks import make_small_task, prepare_from_disk


def test_sequences_are_sampled_and_a_fraction_is_masked_again(diffusion_lm):
    task = make_small_task("restoration", fraction=0.25)
    examples = prepare_from_disk(task, diffusion_lm)
    assert np.shape(examples["tokens"]) == (6, 13)
    assert {row[0] for row in examples["tokens"]} == {0}  # the zoo's BOS
    assert not any(1 in row for row in examples["tokens"])  # no mask is left
    assert {len(positions) for positions in examples["masked"]} == {3}
    assert all(min(positions) >= 1 for positions in examples["masked"])  # the BOS was not sampled
    assert examples == prepare_from_disk(task, diffusion_lm)
    assert examples != prepare_from_disk(make_small_task("restoration", fraction=0.25, seed=1), diffusion_lm)


@pytest.mark.parametrize(("name", "options"), [("restoration", {"metric": "agreement"}), ("masked_token", {})])
def test_the_score_is_the_share_of_masks_whose_arg_max_is_the_token(diffusion_lm, name, options):
    task = make_small_task(name, **options)
    examples = prepare_from_disk(task, diffusion_lm)
    expected = []
    for row, positions in zip(examples["tokens"], examples["masked"], strict=True):
        tokens = torch.tensor([row])
        noisy = tokens.clone()
        noisy[0, positions] = 1
        with torch.no_grad():
            logits = diffusion_lm.model(noisy).logits[0]
        logits[:, 1] = -torch.inf
        expected.append(float((logits.argmax(-1) == tokens[0])[positions].double().mean()))
    np.testing.assert_allclose(task.score(diffusion_lm, examples).values, expected)


@pytest.mark.parametrize("name", ["restoration", "masked_token"])
def test_at_p_one_the_scores_are_dense_and_all_tokens_count(diffusion_lm, name):
    task = make_small_task(name)
    examples = prepare_from_disk(task, diffusion_lm)
    dense = task.score(diffusion_lm, examples)
    with sd.sparsify(diffusion_lm.model, "all_inputs", sd.TopP(1.0)) as sparsifier:
        overlap = KeptSetOverlap(sparsifier)
        sparse = task.score(diffusion_lm, examples, sparsifier)
    np.testing.assert_array_equal(sparse.values, dense.values)
    tokens = sum(map(len, examples["tokens"]))
    table = sparsifier.stats()
    assert set(table.loc[table["vector"] == "input", "total"]) == {tokens * 128}
    assert set(table["phase"]) == {"prefill"}
    assert table["step"].isna().all()
    assert not overlap.usage()  # without steps there is nothing to compare


def masked_logits(lm, row, positions):
    """Return the logits at the masked positions of one sequence."""
    noisy = torch.tensor([row])
    noisy[0, positions] = 1
    with torch.no_grad():
        logits = lm.model(noisy).logits[0, positions].double()
    logits[:, 1] = -torch.inf
    return logits


def test_the_expected_score_is_the_dense_probability_of_the_arg_max_in_the_same_context(diffusion_lm):
    task = make_small_task("restoration")
    examples = prepare_from_disk(task, diffusion_lm)
    dense = task.score(diffusion_lm, examples)
    with sd.sparsify(diffusion_lm.model, "all_inputs", sd.TopP(0.6)) as sparsifier:
        sparse = task.score(diffusion_lm, examples, sparsifier)
    expected = []
    for row, positions in zip(examples["tokens"], examples["masked"], strict=True):
        probabilities = masked_logits(diffusion_lm, row, positions).softmax(-1)
        with sd.sparsify(diffusion_lm.model, "all_inputs", sd.TopP(0.6)):
            best = masked_logits(diffusion_lm, row, positions).argmax(-1)
        expected.append((float(probabilities.amax(-1).mean()), float(probabilities.gather(-1, best[:, None]).mean())))
    assert dense.metric == sparse.metric == "expected_agreement"
    np.testing.assert_allclose(np.stack([dense.values, sparse.values], 1), expected, rtol=1e-4)
    assert (sparse.values <= dense.values).all()


def test_a_sparser_model_restores_less(diffusion_lm):
    task = make_small_task("restoration", sequences=16, length=48)
    examples = prepare_from_disk(task, diffusion_lm)
    means = [task.score(diffusion_lm, examples).mean]
    for p in (0.8, 0.2):
        with sd.sparsify(diffusion_lm.model, "all_inputs", sd.TopP(p)) as sparsifier:
            means.append(task.score(diffusion_lm, examples, sparsifier).mean)
    assert means[0] > means[2]
    assert means[1] > means[2]


def test_self_prediction_of_a_diffusion_model_is_restoration(diffusion_lm):
    task = make_small_task("self_prediction")
    restoration = make_small_task("restoration")
    examples = prepare_from_disk(task, diffusion_lm)
    assert examples == prepare_from_disk(restoration, diffusion_lm)
    scores = task.score(diffusion_lm, examples)
    assert scores.metric == "expected_agreement"
    hits = make_small_task("self_prediction", metric="agreement").score(diffusion_lm, examples)
    assert hits.metric == "restored"
    np.testing.assert_array_equal(scores.values, restoration.score(diffusion_lm, examples).values)


@pytest.mark.parametrize(
    ("rows", "length", "fraction", "expected"),
    [([[0, 5, 6, 7, 8]], 4, 0.5, 2), ([[0, 5]], 4, 0.1, 1), ([[5, 6, 7]], 3, 1.0, 3)],
)
def test_at_least_one_token_is_masked(rows, length, fraction, expected):
    assert [len(positions) for positions in draw_masks(rows, length, fraction, 0)] == [expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction 0.0: expected a number above 0 and at most 1"),
        ({"sequences": 0}, "sequences=0: expected at least 1"),
        ({"diffusion_steps": 13}, "13 denoising steps for 12 tokens"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(options, message):
    with pytest.raises(SpecError, match=message):
        make_small_task("restoration", **options)


@pytest.mark.parametrize("name", ["restoration", "denoising", "masked_token"])
def test_a_causal_model_is_refused(causal_lm, name):
    with pytest.raises(ModelError, match="is causal: expected a masked-diffusion model"):
        make_small_task(name).prepare(causal_lm)


def test_more_tokens_than_the_model_has_positions_are_refused(diffusion_lm):
    with pytest.raises(TaskError, match="exceed the model's 256 positions: lower the length"):
        make_small_task("restoration", length=256).prepare(diffusion_lm)
