"""Experts in a list: which of their rows are padding."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import AttachError
from sparsedial.moe import RowTracker
from tests.support.expert_models import GATHERS, ListedExpertsModel, padded_inputs


@pytest.mark.parametrize("gather", GATHERS)
def test_token_indices_of_gathered_rows(gather):
    x = torch.randn(6, 16)
    token = torch.tensor([1, 4, 5])
    with RowTracker(x) as tracker:
        rows = GATHERS[gather](x, token)
    assert torch.equal(tracker.token_indices(rows), token)


def test_token_indices_of_other_tensors_are_unknown():
    x = torch.randn(6, 16)
    with RowTracker(x) as tracker:
        transposed = x.t()[torch.tensor([0, 1])]
        narrow = x[:, :8][torch.tensor([0, 1])]
        scalar = x.sum().clone()
    assert tracker.token_indices(transposed) is None
    assert tracker.token_indices(narrow) is None
    assert tracker.token_indices(scalar) is None


@pytest.mark.parametrize("gather", GATHERS)
@pytest.mark.parametrize("site", ["input", "up", "intermediate", "all_inputs"])
@torch.no_grad()
def test_padding_is_not_counted(gather, site):
    model = ListedExpertsModel(GATHERS[gather])
    inputs = padded_inputs()
    with sd.sparsify(model, site, sd.TopP(0.7)) as sparsifier:
        model(**inputs)
    table = sparsifier.stats()
    assert set(table["tokens"].groupby([table["layer"], table["vector"]]).sum()) == {13 * 2}
    assert table["weight"].isna().all()  # Routing weights are not observable.
    key = ["layer", "vector", "expert"]
    unpadded = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True):
        with sd.sparsify(model, site, sd.TopP(0.7)) as single:
            model(ids[mask][None])
        unpadded.append(single.stats().set_index(key)[["dropped", "total", "tokens"]])
    padded = table.set_index(key)[["dropped", "total", "tokens"]]
    assert (padded[["total", "tokens"]] == sum(unpadded)[["total", "tokens"]]).all(axis=None)
    assert (padded["dropped"] - sum(unpadded)["dropped"]).abs().max() <= 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@torch.no_grad()
def test_untracked_rows_are_an_error_only_with_padding():
    model = ListedExpertsModel(lambda flat, token: flat.gather(0, token[:, None].expand(-1, 16)))
    with sd.sparsify(model, "input", sd.TopP(0.7)) as sparsifier:
        model(padded_inputs()["input_ids"])
    assert sparsifier.stats()["tokens"].sum() == 18 * 2 * 2
    with sd.sparsify(model, "input", sd.TopP(0.7)) as sparsifier:
        model(**padded_inputs())
    with pytest.raises(AttachError, match=r"could not be tracked.*layers.0.experts"):
        sparsifier.stats()


@torch.no_grad()
def test_an_idle_expert_in_a_list_has_a_row_without_data():
    model = ListedExpertsModel(GATHERS["index"])
    with sd.sparsify(model, "input", sd.TopP(0.7)) as sparsifier:
        model(torch.tensor([[5]]))
    table = sparsifier.stats()
    assert len(table) == 8
    assert (table["total"] == 0).sum() == table["sparsity"].isna().sum() == 4


@torch.no_grad()
def test_a_sparsifier_can_be_attached_again():
    model = ListedExpertsModel(GATHERS["index"])
    sparsifier = sd.sparsify(model, "input", sd.TopP(0.7))
    for _ in range(2):
        with sparsifier:
            model(**padded_inputs())
    assert sparsifier.stats().groupby("layer")["tokens"].sum().tolist() == [2 * 13 * 2] * 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@torch.no_grad()
def test_no_mode_is_left_after_an_interruption_in_an_expert():
    model = ListedExpertsModel(GATHERS["index"])

    def interrupt(*_):
        raise KeyboardInterrupt

    for expert in model.layers[1].experts:
        expert["mlp"].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), sd.sparsify(model, "input", sd.TopP(0.7)):
        model(**padded_inputs())
    assert torch._C._len_torch_dispatch_stack() == 0
