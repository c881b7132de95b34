"""Assignment of real tokens to vectors, by the shapes of the calls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertLMHeadModel

import sparsedial as sd
from sparsedial.errors import AttachError, SpecError
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.forward_context import ForwardContext, UnknownPadding
from sparsedial.hooks.pending_counts import RuleCall
from sparsedial.hooks.token_alignment import assign_real_tokens

KEY = CounterKey(0, "layers.0.mlp", "input", None, 4)
TIME_MAJOR_KEY = CounterKey(0, "layers.0.mlp", "input", None, 4, is_time_major=True)


def assign(real, parts, key=KEY, **context):
    """Return the real tokens of calls whose vectors have the shapes of these tensors."""
    calls = [RuleCall((0,), torch.zeros(part.numel()), part.shape) for part in parts]
    masks = assign_real_tokens(ForwardContext(real_tokens=real, **context), calls, [key])
    return [None if mask is None else mask.reshape(-1) for mask in masks]


@st.composite
def layouts(draw):
    """Real tokens, and the same matrix in the parts and the order in which a layer processes them."""
    rows, count = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    flags = draw(st.lists(st.booleans(), min_size=rows * count, max_size=rows * count))
    real = torch.tensor(flags).view(rows, count)
    layout = draw(st.sampled_from(["whole", "flat", "time-major", "tokens", "rows", "flat parts", "twice"]))
    size = draw(st.integers(1, 4))
    parts = {
        "whole": [real],
        "flat": [real.reshape(-1)],
        "time-major": [real.T.contiguous()],
        "tokens": list(real.split(size, 1)),
        "rows": list(real.split(size, 0)),
        "flat parts": list(real.reshape(-1).split(size)),
        "twice": [*real.split(size, 1), *real.split(size, 1)],
    }[layout]
    return real, parts, layout


@settings(max_examples=200)
@given(layouts())
def test_each_part_gets_the_flags_of_its_tokens(case):
    real, parts, layout = case
    key = TIME_MAJOR_KEY if layout == "time-major" else KEY
    for mask, part in zip(assign(real, parts, key), parts, strict=True):
        assert torch.equal(mask, part.reshape(-1))


def test_vectors_that_cannot_be_assigned_are_an_error_unless_nothing_is_padding():
    real = torch.tensor([[True, True, True], [True, False, False]])
    other = torch.zeros(2, 5)
    with pytest.raises(AttachError, match=r"layers\.0\.mlp: its vectors have the shape \[2, 5\].*\[2, 3\].*observe\("):
        assign(real, [other])
    assert assign(torch.ones(2, 3, dtype=torch.bool), [other]) == [None]
    assert assign(real, [torch.zeros(4)]) == [None]  # the four real tokens, without padding
    with pytest.raises(AttachError, match="shape"):
        assign(real, [torch.zeros(2, 2), torch.zeros(2, 3)])  # parts that are more than the whole


def test_the_number_of_stated_flags_must_be_that_of_the_vectors():
    with pytest.raises(SpecError, match="6 entries for a forward of 10 tokens"):
        assign(torch.ones(2, 3, dtype=torch.bool), [torch.zeros(2, 5)], states_real_tokens=True)


def test_flags_in_one_dimension_are_those_of_the_forward():
    real = torch.tensor([True, True, False, True, False, False])
    parts = list(real.view(2, 3).split(1, 1))
    masks = assign(real, parts, token_shape=(2, 3))
    assert [mask.tolist() for mask in masks] == [[True, True], [True, False], [False, False]]


@pytest.mark.parametrize(("mask", "is_known"), [(torch.ones(2, 4), True), (torch.zeros(2, 4), False), (None, False)])
def test_a_mask_that_cannot_be_read_matters_only_with_padding(mask, is_known):
    context = ForwardContext(unknown_padding=UnknownPadding("The mask has another size", mask))
    calls = [RuleCall((0,), torch.zeros(6), torch.Size([2, 3]))]
    if is_known:
        assert assign_real_tokens(context, calls, [KEY]) == [None]
    else:
        with pytest.raises(AttachError, match=r"The mask has another size, so padding would be counted.*observe\("):
            assign_real_tokens(context, calls, [KEY])


IDS = torch.arange(3, 19).view(2, 8)
MASK = torch.ones_like(IDS)
MASK[1, 4:] = 0


def count(model):
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(0.5)) as sparsifier:
        model(input_ids=IDS, attention_mask=MASK)
    return sparsifier.stats()[["dropped", "total"]].values.tolist()


def test_chunked_feed_forward_layers_count_like_whole_ones():
    counts = []
    for chunk in (0, 1, 2):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            is_decoder=True, chunk_size_feed_forward=chunk,
        )  # fmt: skip
        counts.append(count(BertLMHeadModel(config).eval().double()))
    assert counts[0] == counts[1] == counts[2]
    assert {total for _, total in counts[0]} == {12 * 32}


@pytest.mark.parametrize("dimension", [0, 1])
def test_tiled_feed_forward_layers_count_like_whole_ones(own_llama, dimension):
    model = own_llama.double()
    whole = count(model)
    for layer in model.model.layers:
        layer.mlp.forward = tile(layer.mlp.forward, dimension)
    assert count(model) == whole


def tile(forward, dimension):
    return lambda x: torch.cat([forward(part) for part in x.split(1, dimension)], dimension)


class TimeMajorModel(nn.Module):
    """A model whose layer processes tokens in the order [tokens, batch]."""

    def __init__(self, layer_order):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(32, 8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.layer_order = layer_order

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        if self.layer_order == "time":
            x = x.transpose(0, 1)
        return self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize("length", [3, 8], ids=["as many tokens as rows", "more tokens"])
def test_time_major_layers_count_like_others(length):
    ids = torch.arange(3 * length).view(3, length)
    mask = torch.ones_like(ids)
    mask[2, 1:] = 0
    counts = []
    for order in ("batch", "time"):
        model = TimeMajorModel(order)
        with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(0.5)) as sparsifier:
            model(input_ids=ids, attention_mask=mask)
        counts.append(sparsifier.stats()[["dropped", "tokens"]].values.tolist())
    assert counts[0] == counts[1]
    assert counts[0][0][1] == 2 * length + 1
