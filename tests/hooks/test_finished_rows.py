"""Rows of a batch that have ended are padding until the others have ended, too."""

from __future__ import annotations

import copy
import types

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

import sparsedial as sd

PROMPTS = (torch.arange(3, 10)[None], torch.arange(20, 27)[None])
BATCH = torch.cat(PROMPTS)
OPTIONS = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}


def generate(model, ids, **options):
    """Generate with a rule that changes nothing, and return the tokens per phase and the output."""
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(1)) as sparsifier:
        output = model.generate(ids, attention_mask=torch.ones_like(ids), **{**OPTIONS, **options})
    table = sparsifier.stats()
    table = table[table["layer"] == 0]
    return dict(zip(table["phase"], table["tokens"], strict=True)), output


def add(first, second):
    return {phase: first.get(phase, 0) + second.get(phase, 0) for phase in first | second}


@pytest.fixture(scope="module")
def end_token(llama):
    """A token that the model says early in the first row and never in the second."""
    free = [generate(llama, ids, eos_token_id=None)[1][0, 7:].tolist() for ids in PROMPTS]
    return next(token for token in free[0] if token not in free[1])


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_a_batch_counts_like_its_rows_one_by_one(llama, end_token, options):
    options = {**options, "eos_token_id": end_token, "disable_compile": True}
    first, _ = generate(llama, PROMPTS[0], **options)
    second, _ = generate(llama, PROMPTS[1], **options)
    together, output = generate(llama, BATCH, **options)
    assert 0 in output[0, 7:]  # otherwise no row ends before the other
    assert together == add(first, second)


def test_other_stopping_criteria_also_end_rows(llama):
    class StopFirstRow(StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            return torch.tensor([input_ids.shape[1] >= 9, False])

    criteria = StoppingCriteriaList([StopFirstRow()])
    counts, _ = generate(llama, BATCH, eos_token_id=None, stopping_criteria=criteria)
    assert counts == {"prefill": 14, "generation": 1 + 7}


def test_the_next_forward_is_not_affected(llama, end_token):
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(1)) as sparsifier:
        llama.generate(BATCH, attention_mask=torch.ones_like(BATCH), **OPTIONS, eos_token_id=end_token)
        before = sparsifier.stats().groupby("phase")["tokens"].sum()
        llama(BATCH)
        after = sparsifier.stats().groupby("phase")["tokens"].sum()
    assert (after - before).to_dict() == {"prefill": 3 * 14, "generation": 0}
    assert "generate" not in vars(llama) and "_get_stopping_criteria" not in vars(llama)


def test_beams_are_all_counted(llama, end_token):
    counts, _ = generate(llama, BATCH, num_beams=2, eos_token_id=None)
    assert counts == {"prefill": 2 * 14, "generation": 7 * 4}


def test_a_copy_made_inside_the_block_generates_by_itself(llama, end_token):
    _, expected = generate(llama, BATCH, eos_token_id=end_token)
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(1)) as sparsifier:
        llama(BATCH)
        duplicate = copy.deepcopy(llama)
        output = duplicate.generate(BATCH, attention_mask=torch.ones_like(BATCH), **OPTIONS, eos_token_id=end_token)
    assert torch.equal(output, expected)
    assert set(sparsifier.stats()["phase"]) == {"prefill"}


def count_with(sparsifier, model, end_token):
    """Return the tokens per phase of a batch whose first row ends early."""
    sparsifier.reset()
    model.generate(BATCH, attention_mask=torch.ones_like(BATCH), **OPTIONS, eos_token_id=end_token)
    table = sparsifier.stats()
    return table[table["layer"] == 0].set_index("phase")["tokens"].to_dict()


@torch.no_grad()
def test_a_block_inside_another_one_leaves_the_outer_one_observing(llama, end_token):
    with sd.sparsify(llama, "input", sd.TopP(1)) as outer:
        expected = count_with(outer, llama, end_token)
        with sd.sparsify(llama, "intermediate", sd.TopP(1)) as inner:
            assert count_with(inner, llama, end_token) == expected
        assert count_with(outer, llama, end_token) == expected
    assert "generate" not in vars(llama) and "_get_stopping_criteria" not in vars(llama)


@torch.no_grad()
def test_blocks_may_end_in_any_order(llama, end_token):
    first, second = (sd.sparsify(llama, site, sd.TopP(1)) for site in ("input", "intermediate"))
    first.__enter__()
    second.__enter__()
    expected = count_with(second, llama, end_token)
    first.__exit__()
    assert count_with(second, llama, end_token) == expected
    second.__exit__()
    assert "generate" not in vars(llama) and "_get_stopping_criteria" not in vars(llama)


def shout(model, *args, **kwargs):
    return type(model).generate(model, *args, **kwargs)


def test_a_generate_that_was_set_on_the_model_is_kept(own_llama, end_token):
    own_llama.generate = types.MethodType(shout, own_llama)
    with sd.sparsify(own_llama, "input", sd.TopP(1)) as sparsifier:
        own_llama(BATCH)
        duplicate = copy.deepcopy(own_llama)
        counts = count_with(sparsifier, own_llama, end_token)
    assert own_llama.generate.__func__ is shout and "_get_stopping_criteria" not in vars(own_llama)
    assert duplicate.generate.__func__ is shout and duplicate.generate.__self__ is duplicate
    del own_llama.generate
    with sd.sparsify(own_llama, "input", sd.TopP(1)) as sparsifier:
        assert count_with(sparsifier, own_llama, end_token) == counts
