"""Masks that are used for several denoising steps."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.hooks import MaskReuse
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.kernels.dispatch import BoundRule
from tests.support.denoising import CallRecorder, run_denoising


def test_a_reused_mask_is_the_one_of_the_previous_step(masked_llama):
    with sd.sparsify(masked_llama, "all_inputs", sd.TopP(0.7)) as sparsifier:
        MaskReuse(3).attach(sparsifier)
        recorder = CallRecorder(sparsifier)
        run_denoising(masked_llama, sparsifier, steps=8)
    previous = {}
    new_masks = 0
    for call in recorder.calls:
        if call.step % 3:
            assert torch.equal(call.kept, previous[call.counter])
        elif call.step:
            new_masks += not torch.equal(call.kept, previous[call.counter])
        previous[call.counter] = call.kept
    assert new_masks > 0
    assert sparsifier.stats()["sparsity"].between(0.1, 0.9).all()


def test_a_mask_that_is_used_once_changes_nothing(masked_llama):
    dropped = {}
    for k in (None, 1, 4):
        with sd.sparsify(masked_llama, "all_inputs", sd.TopP(0.5)) as sparsifier:
            if k is not None:
                MaskReuse(k).attach(sparsifier)
            run_denoising(masked_llama, sparsifier, steps=8)
        dropped[k] = sparsifier.stats()["dropped"].tolist()
    assert dropped[1] == dropped[None]
    assert dropped[4] != dropped[None]


def test_outside_of_denoising_no_mask_is_reused(masked_llama, tokens):
    dropped = []
    for k in (1, 5):
        with sd.sparsify(masked_llama, "input", sd.TopP(0.5)) as sparsifier, torch.no_grad():
            MaskReuse(k).attach(sparsifier)
            masked_llama(tokens[:2])
            masked_llama(tokens[2:])
        dropped.append(sparsifier.stats()["dropped"].tolist())
    assert dropped[0] == dropped[1]


def test_a_reused_mask_does_not_change_a_vector_with_nan():
    bound = BoundRule(sd.TopP(0.5))

    def rule(counter, x, context):
        return bound(x)

    reuse = MaskReuse(2)
    x = torch.randn(1, 3, 32)
    _, first_kept = reuse.apply(0, x, ForwardContext(step=0), rule)
    x[0, 1, 4] = torch.nan
    y, kept = reuse.apply(0, x, ForwardContext(step=1), rule)
    assert kept.tolist()[0][1] == -1
    assert torch.equal(y[0, 1].isnan(), x[0, 1].isnan())
    assert (y[0, 0] != 0).sum() == first_kept[0, 0]


def test_a_mask_must_be_used_at_least_once():
    with pytest.raises(SpecError, match="at least 1"):
        MaskReuse(0)
