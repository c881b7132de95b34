"""How often each entry was kept."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError
from tests.support.expert_models import GATHERS, ListedExpertsModel, build_model, padded_inputs

pytestmark = pytest.mark.usefixtures("fast_decode")
REAL = 13  # tokens of `padded_inputs`


def record_vectors(model, tokens, **arguments):
    """Return the intermediate vectors of each layer of a dense forward pass of a Llama model."""
    vectors = {}
    handles = []
    for index, layer in enumerate(model.model.layers):
        hook = lambda _, args, index=index: vectors.__setitem__(index, args[0])  # noqa: E731
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(hook))
    model(tokens, **arguments)
    for handle in handles:
        handle.remove()
    return vectors


@torch.no_grad()
def test_usage_counts_the_kept_entries_of_real_tokens(llama, tokens):
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0
    with sd.sparsify(llama, "intermediate", sd.TopP(0.5), layers=[0], track_usage=True) as sparsifier:
        vectors = record_vectors(llama, tokens, attention_mask=mask)
        llama(tokens[:1, :1])
        for _ in range(3):
            vectors_of_one = record_vectors(llama, tokens[:1, :1])
    [usage] = sparsifier.usage()
    kept = (sd.apply_rule(vectors[0], sd.TopP(0.5))[0] != 0) & mask.bool()[..., None]
    kept_of_one = sd.apply_rule(vectors_of_one[0], sd.TopP(0.5))[0] != 0
    expected = kept.sum((0, 1)) + 4 * kept_of_one.sum((0, 1))
    assert torch.equal(usage.kept, expected) and usage.tokens == 43 + 4
    assert torch.equal(usage.share, expected.double() / 47)
    table = sparsifier.stats()
    assert int(usage.kept.sum()) == (table["total"] - table["dropped"]).sum()


@pytest.mark.parametrize("name", ["qwen3_moe", "listed", "llama"])
@pytest.mark.parametrize("site", ["input", "up", "intermediate", "all_inputs"])
@torch.no_grad()
def test_usage_agrees_with_the_counts_of_each_expert(name, site, request):
    if name == "listed":
        model = ListedExpertsModel(GATHERS["index"])
    elif name == "llama":
        model = request.getfixturevalue("llama")
    else:
        model = build_model(name)
    inputs = padded_inputs()
    inputs["input_ids"] %= 96
    with sd.sparsify(model, site, sd.TopK(0.3), track_usage=True) as sparsifier:
        model(**inputs)
        sparsifier.rule = sd.TopP(0.5)
        model(**inputs)
    table = sparsifier.stats()
    table = table[table["total"] > 0].set_index(["module", "vector", "rule"])
    usages = [usage for usage in sparsifier.usage() if usage.tokens]
    assert len(usages) == len(table)
    for usage in usages:
        row = table.loc[usage.module, usage.vector, repr(usage.rule)]
        assert usage.tokens == row["tokens"]
        assert int(usage.kept.sum()) == row["total"] - row["dropped"]
        assert usage.kept.max() <= usage.tokens


def test_zeros_that_top_k_keeps_and_vectors_with_nan(own_llama, tokens):
    own_llama.model.layers[0].mlp.up_proj.weight.data.zero_()
    own_llama.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with torch.no_grad(), sd.sparsify(own_llama, "up", sd.TopK(0.5), track_usage=True, layers=[0, 1]) as sparsifier:
        own_llama(tokens)
    [usage] = sparsifier.usage()  # no vector of layer 1 was counted
    assert usage.layer == 0
    assert usage.kept.tolist() == [48] * 40 + [0] * 40


@torch.no_grad()
def test_a_failed_forward_is_not_counted(own_llama, tokens):
    with sd.sparsify(own_llama, "input", sd.TopK(0.5), track_usage=True) as sparsifier:
        own_llama(tokens)
        with pytest.raises(IndexError):
            own_llama(torch.full((1, 3), 1000))
        own_llama.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            own_llama(tokens)
    assert {usage.tokens for usage in sparsifier.usage()} == {48}


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_model_is_counted(own_llama, tokens):
    torch._dynamo.reset()
    with sd.sparsify(own_llama, "all_inputs", sd.TopK(0.5), track_usage=True) as sparsifier:
        compiled = torch.compile(own_llama, backend="aot_eager", fullgraph=True)
        for _ in range(2):
            compiled(tokens)
    usages = sparsifier.usage()
    assert len(usages) == 6 and {usage.tokens for usage in usages} == {96}
    assert all(int(usage.kept.sum()) == 96 * len(usage.kept) // 2 for usage in usages)


def test_usage_is_off_by_default(llama):
    sparsifier = sd.sparsify(llama, "input", sd.TopP(0.5))
    with pytest.raises(SpecError, match="track_usage=True"):
        sparsifier.usage()
