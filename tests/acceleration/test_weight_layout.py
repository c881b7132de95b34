"""Layouts of weights: rows that follow each other, and rows with unused memory between them."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

import sparsedial as sd
from sparsedial.acceleration import weight_layout
from sparsedial.acceleration.weight_layout import CACHE_LINE_BYTES, WeightLayout, join_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("row_bytes", "has_padding"), [(2048, False), (4096, True), (4096 + 64, False), (6144, True), (12288, True)]
)
def test_rows_of_a_conflicting_length_are_padded(dtype, row_bytes, has_padding):
    columns = row_bytes // dtype.itemsize
    parts = [torch.randn(5, columns // 4).to(dtype), torch.randn(5, columns - columns // 4).to(dtype)]
    joined = join_rows(parts)
    assert torch.equal(joined, torch.cat(parts, dim=1))
    assert joined.stride() == (columns + has_padding * CACHE_LINE_BYTES // dtype.itemsize, 1)


def test_a_single_matrix_is_not_copied_if_it_has_the_layout():
    weight = torch.randn(6, 16)
    assert join_rows([weight]) is weight
    assert join_rows([weight.t()]).is_contiguous()


def test_padded_models_are_computed_saved_and_copied(make_model, monkeypatch, tmp_path):
    monkeypatch.setattr(weight_layout, "MIN_PADDED_BYTES", 0)
    monkeypatch.setattr(weight_layout, "CONFLICTING_BYTES", 4)  # every row is padded
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prompts = [torch.arange(1, count)[None] for count in (3, 20)]
    with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.7)):
        expected = [model(prompt).logits for prompt in prompts]
    with sd.accelerate(model, "all_inputs", sd.TopP(0.7), prefill="sparse") as fast:
        assert not model.model.layers[0].mlp.down_proj.weight.t().is_contiguous()
        for prompt, logits in zip(prompts, expected, strict=True):
            assert (fast(prompt).logits - logits).abs().max() < 1e-5 * logits.abs().max()
        fast.save_pretrained(tmp_path)
        copied = copy.deepcopy(model.state_dict())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    for state in (loaded, copied, model.state_dict()):
        assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("modules", [
    [nn.Linear(7, 1024)],
    [nn.Linear(7, 512), nn.Linear(7, 512)],
    [Conv1D(1024, 7)],
])  # fmt: skip
def test_padded_weights_keep_their_values_and_get_their_layout_back(modules):
    before = [module.weight.detach().clone() for module in modules]
    layout = WeightLayout(modules, "input-major")
    assert layout.joined.stride(0) == 1024 + CACHE_LINE_BYTES // 4
    copied = copy.deepcopy(modules[0])
    for module, weight in zip(modules, before, strict=True):
        assert torch.equal(module.weight, weight)
    layout.restore()
    for module, weight in zip(modules, before, strict=True):
        assert module.weight.is_contiguous()
        assert torch.equal(module.weight, weight)
    assert torch.equal(copied.weight, before[0])
