"""Denoising trajectories of the zoo's diffusion model, replayed."""

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.hooks.step_mask_reuse import MaskReuse
from sparsedial.hooks.step_overlap import KeptSetOverlap
from sparsedial.inference.masked_diffusion_model import MaskedDiffusionModel, MaskedTokens
from tests.support.diffusion_tasks import make_small_task, prepare_from_disk


def test_at_p_one_the_scores_are_dense_and_all_tokens_count(diffusion_lm):
    task = make_small_task("denoising", diffusion_steps=4)
    examples = prepare_from_disk(task, diffusion_lm)
    dense = task.score(diffusion_lm, examples)
    with sd.sparsify(diffusion_lm.model, "all_inputs", sd.TopP(1.0)) as sparsifier:
        overlap = KeptSetOverlap(sparsifier)
        sparse = task.score(diffusion_lm, examples, sparsifier)
    np.testing.assert_array_equal(sparse.values, dense.values)
    tokens = sum(map(len, examples["tokens"]))
    table = sparsifier.stats()
    assert set(table.loc[table["vector"] == "input", "total"]) == {tokens * 128}
    assert set(table["phase"]) == {"generation"}
    assert set(overlap.table()["step"]) == {0, 1, 2, 3}
    assert "kept_median" in overlap.usage()


def test_each_token_is_scored_in_its_own_step(diffusion_lm):
    task = make_small_task("denoising", diffusion_steps=3, temperature=1.0, metric="agreement")
    examples = prepare_from_disk(task, diffusion_lm)
    steps = np.array(examples["step"])
    assert (steps[:, 0] == -1).all()
    for row in steps:
        assert [(row == step).sum() for step in range(3)] == [4] * 3
    assert len(steps) == 6
    expected = []
    for tokens, filled_at in zip(torch.tensor(examples["tokens"]), torch.tensor(examples["step"]), strict=True):
        hits = 0
        for step in range(3):
            with torch.no_grad():
                logits = diffusion_lm.model(tokens.masked_fill(filled_at >= step, 1)[None]).logits[0]
            logits[:, 1] = -torch.inf
            hits += int(((logits.argmax(-1) == tokens) & (filled_at == step)).sum())
        expected.append(hits / 12)
    np.testing.assert_allclose(task.score(diffusion_lm, examples).values, expected)


def test_mask_reuse_is_part_of_the_task_and_changes_the_overlap(diffusion_lm):
    tasks = [make_small_task("denoising", diffusion_steps=6, reuse_mask=k) for k in (1, 4)]
    assert tasks[0].identity() != tasks[1].identity()
    examples = prepare_from_disk(tasks[0], diffusion_lm)
    assert examples == prepare_from_disk(tasks[1], diffusion_lm)
    dense = [task.score(diffusion_lm, examples).values for task in tasks]
    np.testing.assert_array_equal(dense[0], dense[1])
    mean_overlaps = []
    for task in tasks:
        with sd.sparsify(diffusion_lm.model, "intermediate", sd.TopP(0.8)) as sparsifier:
            MaskReuse(task.reuse_mask).attach(sparsifier)
            overlap = KeptSetOverlap(sparsifier)
            task.score(diffusion_lm, examples, sparsifier)
        table = overlap.table()
        assert sorted(set(table["step"])) == list(range(6))
        assert {"masked", "revealed"} == set(table["state"])
        mean_overlaps.append(table[table["step"] == 1]["overlap_previous"].mean())
    assert mean_overlaps[0] < 0.99 < mean_overlaps[1]  # the same mask, but for entries that are exactly zero


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reuse_mask": 0}, "reuse_mask=0: expected at least 1"),
        ({"block_length": 5}, "block length 5 does not divide 12 tokens"),
        ({"diffusion_steps": 0}, "denoising steps 0: expected at least 1"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(options, message):
    with pytest.raises(SpecError, match=message):
        make_small_task("denoising", **options)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"guidance": 0.5}], ids=str)
@pytest.mark.parametrize("p", [0.9, 0.2])
def test_the_score_is_the_dense_probability_of_the_arg_max_in_the_same_step(diffusion_lm, options, p):
    task = make_small_task("denoising", diffusion_steps=3, batch=4, **options)
    examples = prepare_from_disk(task, diffusion_lm)
    model = MaskedDiffusionModel.from_language_model(diffusion_lm)
    tokens = torch.tensor(examples["tokens"])
    filled_at = torch.tensor(examples["step"])
    expected = torch.zeros(len(tokens), dtype=torch.float64)
    for step in range(3):
        masked = filled_at >= step
        noisy = MaskedTokens(tokens.masked_fill(masked, 1), masked, filled_at < 0)
        guidance = options.get("guidance", 0.0)
        with torch.no_grad():
            dense = model.logits(noisy, phase="generation", guidance=guidance)
            with sd.sparsify(diffusion_lm.model, "all_inputs", sd.TopP(p)):
                sparse = model.logits(noisy, phase="generation", guidance=guidance)
        for logits in (dense, sparse):
            logits[..., 1] = -torch.inf
        probabilities = (dense / options.get("temperature", 1.0)).softmax(-1)
        found = probabilities.gather(-1, sparse.argmax(-1)[..., None])[..., 0]
        expected += (found * (filled_at == step)).sum(1).double() / 12
    with sd.sparsify(diffusion_lm.model, "all_inputs", sd.TopP(p)) as sparsifier:
        scores = task.score(diffusion_lm, examples, sparsifier)
    assert scores.metric == "expected_agreement"
    np.testing.assert_allclose(scores.values, expected.numpy(), rtol=1e-3)
    rows = len(tokens) * (2 if options.get("guidance") else 1)
    table = sparsifier.stats()
    assert set(table.loc[table["vector"] == "input", "total"]) == {rows * 13 * 128}  # look-ups are not counted
    dense_scores = task.score(diffusion_lm, examples).values
    assert (scores.values <= dense_scores).all()


def test_tokens_that_were_kept_for_their_confidence_are_counted_as_hits(diffusion_lm):
    task = make_small_task("denoising", diffusion_steps=3, remasking="low_confidence")
    same = make_small_task("denoising", diffusion_steps=3, remasking="low_confidence", metric="agreement")
    assert task.identity() == same.identity()
    assert task.score(diffusion_lm, prepare_from_disk(task, diffusion_lm)).metric == "agreement"
