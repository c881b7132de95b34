"""Real tokens, read from the attention mask."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.hooks.padding import check_token_count, read_real_tokens

MODELS = ("llama", "phi3", "gpt2")
IDS = torch.zeros(2, 3, dtype=torch.int64)


@pytest.fixture
def model(request):
    return request.getfixturevalue(request.param)


def test_without_a_mask_all_tokens_are_real():
    assert read_real_tokens({"input_ids": IDS}, "prefill") is None
    assert read_real_tokens({"attention_mask": torch.ones(2, 3)}, "prefill") is None
    assert read_real_tokens({"input_ids": IDS, "attention_mask": "flash"}, "prefill") is None


def test_a_2d_mask_may_be_longer_than_the_tokens():
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    expected = [[True, True, False], [True, True, True]]
    assert read_real_tokens({"input_ids": IDS, "attention_mask": mask}, "prefill").tolist() == expected
    embeddings = torch.zeros(2, 3, 8)
    assert read_real_tokens({"inputs_embeds": embeddings, "attention_mask": mask}, "prefill").tolist() == expected


def test_a_4d_mask_hides_padding_from_itself():
    allowed = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    allowed[..., 0, :] = False
    ids = IDS[:1]
    added = torch.zeros(1, 1, 3, 3).masked_fill(~allowed, float("-inf"))
    for mask in (allowed, added, {"full_attention": allowed}, {"sliding_attention": allowed}):
        arguments = {"input_ids": ids, "attention_mask": mask}
        assert read_real_tokens(arguments, "prefill").tolist() == [[False, True, True]]
        assert read_real_tokens(arguments, "generation").tolist() == [[False, True, True]]


def test_the_number_of_real_tokens_is_checked():
    check_token_count(torch.ones(6), {"input_ids": IDS})
    check_token_count(torch.ones(6), {"inputs_embeds": torch.zeros(2, 3, 8)})
    check_token_count(torch.ones(6), {"input_ids": IDS[:, :1], "decoder_input_ids": IDS})
    check_token_count(torch.ones(5), {"pixels": IDS})
    with pytest.raises(SpecError, match="5 entries for a forward of 6 tokens"):
        check_token_count(torch.ones(5), {"input_ids": IDS})


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
        model(input_ids=padded, attention_mask=mask)
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
