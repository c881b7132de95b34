"""Counts of the segments of generated texts: thinking and answer."""

import pandas as pd
import pytest
import torch

import sparsedial as sd
from sparsedial.cache_arguments import returned_cache
from sparsedial.errors import AttachError
from tests.support.cache_name import CACHE
from tests.support.expert_models import build_model

COUNTS = ["dropped", "total", "tokens"]
BY = ["layer", "module", "vector"]


def decode(model, sparsifier, tokens, flags):
    """Read prompts of four tokens, and then single tokens with the flags of their segments."""
    cache = returned_cache(model(tokens[:, :4], use_cache=True))
    for step, thinking in enumerate(flags):
        with sparsifier.observe(thinking=thinking):
            model(tokens[:, 4 + step : 5 + step], **{CACHE: cache})


def tokens_by_segment(table):
    return table.fillna({"segment": "none"}).groupby(["phase", "segment"])["tokens"].first().to_dict()


@torch.inference_mode()
def test_a_single_row_is_counted_by_segment(llama, tokens, fast_decode):
    with sd.sparsify(llama, "all_inputs", sd.TopP(0.8)) as sparsifier:
        decode(llama, sparsifier, tokens[:1], [True, True, False, True, False])
    table = sparsifier.stats()
    expected = {("generation", "thinking"): 3, ("generation", "answer"): 2, ("prefill", "none"): 4}
    assert tokens_by_segment(table) == expected
    with sd.sparsify(llama, "all_inputs", sd.TopP(0.8)) as whole:
        decode(llama, whole, tokens[:1], [None] * 5)
    assert "segment" not in whole.stats()
    merged = table.groupby([*BY, "phase"])[COUNTS].sum()
    assert merged.equals(whole.stats().groupby([*BY, "phase"])[COUNTS].sum())
    assert list(table.columns) == [*list(whole.stats().columns)[:5], "segment", *list(whole.stats().columns)[5:]]


@pytest.mark.parametrize("name", ["llama", "experts"])
@torch.inference_mode()
def test_the_rows_of_a_batch_may_be_in_different_segments(tokens, name, request):
    """Each row is compared with a run of this row alone."""
    model = request.getfixturevalue(name) if name == "llama" else build_model("qwen3_moe")
    flags = torch.tensor([[True, True, False], [False, False, False], [True, False, True], [True, True, True]])
    with sd.sparsify(model, "intermediate", sd.TopP(0.8)) as sparsifier:
        decode(model, sparsifier, tokens, flags.T[..., None])
    alone = []
    for row, row_flags in zip(tokens, flags, strict=True):
        with sd.sparsify(model, "intermediate", sd.TopP(0.8)) as single:
            decode(model, single, row[None], row_flags.tolist())
        alone.append(single.stats())
    by = [*BY, "phase", "segment"]
    expected = pd.concat(alone).fillna({"segment": "none"}).groupby(by)[COUNTS].sum()
    actual = sparsifier.stats().fillna({"segment": "none"}).groupby(by)[COUNTS].sum()
    assert actual["tokens"].equals(expected["tokens"])
    assert (actual["dropped"] - expected["dropped"]).abs().max() <= 2  # rounding of batched matrix products
    assert int(expected["tokens"].sum()) > 0


@torch.inference_mode()
def test_the_prompt_has_no_segment_and_padding_is_not_counted(llama, tokens):
    with sd.sparsify(llama, "input", sd.TopP(0.8)) as sparsifier:
        with sparsifier.observe(thinking=torch.ones(4, 12, dtype=torch.bool)):
            cache = returned_cache(llama(tokens, use_cache=True))
        real = torch.tensor([[True], [True], [False], [True]])
        with sparsifier.observe(thinking=torch.tensor([[True], [False], [True], [False]]), real=real):
            llama(tokens[:, :1], **{CACHE: cache})
    expected = {("generation", "thinking"): 1, ("generation", "answer"): 2, ("prefill", "none"): 48}
    assert tokens_by_segment(sparsifier.stats()) == expected


@torch.inference_mode()
def test_flags_of_another_number_of_tokens_are_an_error(llama, tokens):
    with sd.sparsify(llama, "input", sd.TopP(0.8)) as sparsifier:
        cache = returned_cache(llama(tokens, use_cache=True))
        with (
            sparsifier.observe(thinking=torch.tensor([True, False])),
            pytest.raises(AttachError, match="segments of 2"),
        ):
            llama(tokens[:, :1], **{CACHE: cache})


@torch.inference_mode()
def test_entries_are_counted_one_by_one_over_all_segments(llama, tokens):
    with sd.sparsify(llama, "input", sd.TopP(0.8), track_usage=True, phases="generation") as sparsifier:
        decode(llama, sparsifier, tokens, [torch.tensor([[True], [False], [True], [True]])] * 2)
    assert [usage.tokens for usage in sparsifier.usage()] == [8, 8, 8]
