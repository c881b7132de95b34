"""Real tokens, read from the attention mask."""

import pytest
import torch

import sparsedial as sd
from sparsedial.hooks.cache_state import CacheState
from sparsedial.hooks.forward_arguments import PackedSequences, TokenInput
from sparsedial.hooks.padding import UnreadableMaskError, read_packed_tokens, read_real_tokens

MODELS = ("llama", "phi3", "gpt2")
SHAPE = (2, 3)


def tokens_with(mask, shape=SHAPE, is_padding_mask=False):
    return TokenInput(torch.zeros(shape, dtype=torch.int64), shape, mask, is_padding_mask)


@pytest.fixture
def model(request):
    return request.getfixturevalue(request.param)


def test_without_a_mask_all_tokens_are_real():
    assert read_real_tokens(tokens_with(None), None) is None
    assert read_real_tokens(tokens_with({"full_attention": None}), None) is None


@pytest.mark.parametrize(
    ("length", "first"),
    [(2, 2), (0, 0), (1, 1), (torch.tensor(1), 1), (None, 2)],
    ids=[
        "a dynamic cache",
        "an empty static cache",
        "a static cache",
        "a static cache on a device",
        "a recurrent state",
    ],
)
def test_the_columns_of_the_new_tokens_follow_those_of_the_cache(length, first):
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    cache = CacheState(is_filled=length != 0, length=length)
    expected = (mask[:, first : first + 3] != 0).tolist()
    assert read_real_tokens(tokens_with(mask), cache).tolist() == expected


@pytest.mark.parametrize("length", [1, torch.tensor(1)], ids=["on the host", "on the device"])
def test_a_4d_mask_hides_padding_from_itself(length):
    cache = CacheState(is_filled=True, length=length)
    allowed = torch.ones(1, 1, 3, 5, dtype=torch.bool).tril(1)
    allowed[..., 2] = False  # the second of the new tokens is padding
    added = torch.zeros(1, 1, 3, 5).masked_fill(~allowed, float("-inf"))
    for mask in (allowed, added, added[:, 0], {"full_attention": allowed}, {"sliding_attention": allowed}):
        tokens = tokens_with(mask, (1, 3))
        assert read_real_tokens(tokens, cache).tolist() == [[True, False, True]]


def test_a_padding_mask_of_torch_is_true_for_padding():
    mask = torch.tensor([[False, False, True], [False, True, True]])
    assert read_real_tokens(tokens_with(mask, is_padding_mask=True), None).tolist() == (~mask).tolist()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 2), r"shape \[2, 2\], and the input has 2 x 3"),
        (torch.ones(3, 3), r"shape \[3, 3\]"),
        (torch.ones(2, 5), "5 columns for 3 tokens"),
        (torch.ones(2, 1, 1, 3), r"\[2, 1, 1, 3\]"),
        ("flash", "a str"),
    ],
)
def test_a_mask_of_other_tokens_is_not_used(mask, message):
    with pytest.raises(UnreadableMaskError, match=message):
        read_real_tokens(tokens_with(mask), None)


def test_packed_sequences_have_their_own_phases():
    packed = PackedSequences(torch.tensor([0, 3, 4, 5, 5]), torch.tensor([0, 3, 12, 13, 13]))
    real, generating = read_packed_tokens(packed, 7)
    assert real.tolist() == [[True] * 5 + [False] * 2]
    assert generating.tolist() == [[False, False, False, True, False, False, False]]  # the third has a single token


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_padding_is_not_counted(model, side, tokens):
    mask = torch.ones_like(tokens)
    lengths = [12, 7, 3, 9]
    for row, length in enumerate(lengths):
        mask[row, : 12 - length] = 0
    mask = mask if side == "left" else mask.flip(1)
    padded = tokens * mask  # the padding ID is a normal token, so only the mask identifies it
    with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as sparsifier:
        model(input_ids=padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp_min(0))
    table = sparsifier.stats()
    per_token = {f.name: {"input": f.hidden, "intermediate": f.width} for f in sd.find_ffns(model)}
    for row in table.itertuples():
        assert row.total == sum(lengths) * per_token[row.module][row.vector]
    dropped = 0
    for row, length in enumerate(lengths):
        ids = padded[row][mask[row].bool()][None]
        with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as single:
            model(input_ids=ids)
        dropped += int(single.stats()["dropped"].sum())
        assert len(ids[0]) == length
    assert abs(int(table["dropped"].sum()) - dropped) <= 0.002 * dropped  # rounding moves a few boundaries


def test_a_mask_may_be_a_positional_argument(llama, tokens):
    mask = torch.ones_like(tokens)
    mask[:, :4] = 0
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(0.8)) as sparsifier:
        llama(tokens, mask)
    assert set(sparsifier.stats()["total"]) == {4 * 8 * 32}
