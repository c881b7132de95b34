"""What stood at a mask, and what becomes of a denoising gone through again: on the zoo's diffusion model."""

import json

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError, TaskError
from sparsedial.models import load_model
from sparsedial.sources import find_model
from sparsedial.tasks import TaskOptions, make_tasks
from sparsedial.tasks.restoration import masks

SMALL = {"sequences": 6, "length": 12, "batch": 4, "limit": 6}


@pytest.fixture(scope="module")
def lm():
    return load_model(find_model("zoo:diffusion-1.3m"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def causal():
    return load_model(find_model("zoo:dense-1.3m"), device="cpu", dtype="float32")


def the_task(name, **options):
    [task] = make_tasks([name], TaskOptions(**{**SMALL, **options}))
    return task


def prepared(task, lm):
    return json.loads(json.dumps(task.prepare(lm)))  # plain JSON, so that a run can go on from disk


def test_sequences_are_sampled_and_a_fraction_masked_again(lm):
    task = the_task("restoration", fraction=0.25)
    examples = prepared(task, lm)
    assert np.shape(examples["tokens"]) == (6, 13)
    assert {row[0] for row in examples["tokens"]} == {0}  # the zoo's BOS
    assert not any(1 in row for row in examples["tokens"])  # no mask is left
    assert {len(places) for places in examples["masked"]} == {3}
    assert all(min(places) >= 1 for places in examples["masked"])  # the BOS was not sampled
    assert examples == prepared(task, lm)
    assert examples != prepared(the_task("restoration", fraction=0.25, seed=1), lm)


@pytest.mark.parametrize("name", ["restoration", "masked_token"])
def test_the_score_is_how_often_the_arg_max_restores_the_token(lm, name):
    task = the_task(name)
    examples = prepared(task, lm)
    expected = []
    for row, places in zip(examples["tokens"], examples["masked"], strict=True):
        tokens = torch.tensor([row])
        noisy = tokens.clone()
        noisy[0, places] = 1
        with torch.no_grad():
            logits = lm.model(noisy).logits[0]
        logits[:, 1] = -torch.inf
        expected.append(float((logits.argmax(-1) == tokens[0])[places].double().mean()))
    np.testing.assert_allclose(task.score(lm, examples).values, expected)


def test_the_model_knows_more_than_chance(lm):
    task = the_task("masked_token", length=96, limit=24)
    assert task.score(lm, prepared(task, lm)).mean > 0.2


@pytest.mark.parametrize("name", ["restoration", "denoising", "masked_token"])
def test_at_p_one_the_scores_are_the_same_and_all_tokens_count(lm, name):
    task = the_task(name, diffusion_steps=4)
    examples = prepared(task, lm)
    dense = task.score(lm, examples)
    with sd.sparsify(lm.model, "all_inputs", sd.TopP(1.0)) as dial:
        sparse = task.score(lm, examples, dial)
    np.testing.assert_array_equal(sparse.values, dense.values)
    tokens = sum(map(len, examples["tokens"]))
    table = dial.stats()
    assert set(table.loc[table["site"] == "input", "total"]) == {tokens * 128}
    assert set(table["phase"]) == {"generation" if name == "denoising" else "prefill"}
    assert (sparse.steps is not None) == (name == "denoising") == ("kept_median" in sparse.details)
    assert dense.steps is None


def test_a_sparser_model_restores_less(lm):
    task = the_task("restoration", sequences=16, length=48)
    examples = prepared(task, lm)
    means = [task.score(lm, examples).mean]
    for p in (0.8, 0.2):
        with sd.sparsify(lm.model, "all_inputs", sd.TopP(p)) as dial:
            means.append(task.score(lm, examples, dial).mean)
    assert means[0] > means[2]
    assert means[1] > means[2]


def test_self_prediction_of_a_diffusion_model_is_restoration(lm):
    task, same = the_task("self_prediction"), the_task("restoration")
    examples = prepared(task, lm)
    assert examples == prepared(same, lm)
    scores = task.score(lm, examples)
    assert scores.metric == "restored"
    np.testing.assert_array_equal(scores.values, same.score(lm, examples).values)


def test_a_replay_scores_each_token_in_its_own_step(lm):
    task = the_task("denoising", diffusion_steps=3, temperature=1.0)
    examples = prepared(task, lm)
    steps = np.array(examples["step"])
    assert (steps[:, 0] == -1).all()
    assert [(row == s).sum() for row in steps for s in range(3)] == [4] * 18
    expected = []
    for row, at in zip(torch.tensor(examples["tokens"]), torch.tensor(examples["step"]), strict=True):
        hits = 0
        for step in range(3):
            with torch.no_grad():
                logits = lm.model(row.masked_fill(at >= step, 1)[None]).logits[0]
            logits[:, 1] = -torch.inf
            hits += int(((logits.argmax(-1) == row) & (at == step)).sum())
        expected.append(hits / 12)
    np.testing.assert_allclose(task.score(lm, examples).values, expected)


def test_reused_masks_are_part_of_the_task_and_cost_something_else(lm):
    one, four = (the_task("denoising", diffusion_steps=6, reuse_mask=k) for k in (1, 4))
    assert one.identity() != four.identity()
    examples = prepared(one, lm)
    assert examples == prepared(four, lm)
    np.testing.assert_array_equal(one.score(lm, examples).values, four.score(lm, examples).values)  # dense
    likeness = []
    for task in (one, four):
        with sd.sparsify(lm.model, "intermediate", sd.TopP(0.8)) as dial:
            table = task.score(lm, examples, dial).steps
        assert sorted(set(table["step"])) == list(range(6))
        assert {"masked", "revealed"} == set(table["state"])
        likeness.append(table[table["step"] == 1]["consecutive"].mean())
    assert likeness[0] < 0.99 < likeness[1]  # the same mask, but for entries that are exactly zero


@pytest.mark.parametrize(
    ("rows", "length", "fraction", "expected"),
    [([[0, 5, 6, 7, 8]], 4, 0.5, 2), ([[0, 5]], 4, 0.1, 1), ([[5, 6, 7]], 3, 1.0, 3)],
)
def test_at_least_one_token_is_masked(rows, length, fraction, expected):
    assert [len(p) for p in masks(rows, length, fraction, 0)] == [expected]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("restoration", {"fraction": 0.0}, "fraction 0.0: expected a number above 0, up to 1"),
        ("masked_token", {"fraction": 1.5}, "fraction 1.5: expected a number above 0, up to 1"),
        ("restoration", {"sequences": 0}, "sequences=0: expected at least 1"),
        ("denoising", {"reuse_mask": 0}, "reuse_mask 0: expected at least 1"),
        ("denoising", {"block_length": 5}, "block length 5 does not divide 12 tokens"),
        ("denoising", {"diffusion_steps": 0}, "denoising steps 0: expected at least 1"),
        ("restoration", {"diffusion_steps": 13}, "13 denoising steps for 12 tokens"),
        ("restoration", {"mc_samples": 0}, "mc_samples 0: expected at least 1"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(name, options, message):
    with pytest.raises(SpecError, match=message):
        the_task(name, **options)


def test_a_model_of_the_other_kind_is_refused(lm, causal):
    for name in ("restoration", "denoising", "masked_token"):
        with pytest.raises(sd.errors.ModelError, match="is causal: expected a masked-diffusion model"):
            the_task(name).prepare(causal)
    with pytest.raises(TaskError, match="is masked-diffusion: take masked_token instead"):
        the_task("next_token").prepare(lm)


def test_more_tokens_than_the_model_has_positions_are_refused(lm):
    with pytest.raises(TaskError, match="the model has 256 positions: take fewer"):
        the_task("restoration", length=256).prepare(lm)
