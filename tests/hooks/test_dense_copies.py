"""Copies of a sparsified model: dense and independent."""

import copy
import io
import pickle

import pytest
import torch
from transformers import AutoModelForCausalLM

import sparsedial as sd
from sparsedial.hooks.module_patch import InputPatch
from tests.support.expert_models import ListedExpertsModel, build_model
from tests.support.hooks import count_hooks

RULE = sd.TopP(0.5)


def save_and_load(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "python pickle": lambda model: pickle.loads(pickle._dumps(model)),
    "torch.save": save_and_load,
    "inside a container": lambda model: copy.deepcopy({"models": [model]})["models"][0],
}


def _gather(flat, token):
    return flat[token]


@pytest.fixture(params=["llama", "phi3", "gpt2", "qwen3_moe", "listed"])
def model(request):
    if request.param == "listed":
        return ListedExpertsModel(_gather)  # a lambda cannot be pickled
    if request.param == "qwen3_moe":
        return build_model("qwen3_moe")
    return request.getfixturevalue(request.param)


def logits_of(model, ids):
    output = model(ids)
    return getattr(output, "logits", output)


def instance_attributes(model):
    """Return the names of the attributes of each module, by path."""
    return {path: set(vars(module)) for path, module in model.named_modules()}


@pytest.mark.parametrize("name", COPIES)
@torch.no_grad()
def test_a_copy_is_dense_and_independent(model, tokens, name):
    attributes = instance_attributes(model)
    dense = logits_of(model, tokens)
    with sd.sparsify(model, "input", RULE) as outer, sd.sparsify(model, "intermediate", RULE) as sparsifier:
        sparse = logits_of(model, tokens)
        duplicate = COPIES[name](model)
        assert count_hooks(duplicate) == 0
        assert instance_attributes(duplicate) == attributes
        assert torch.equal(logits_of(duplicate, tokens), dense)
        for parameter, original in zip(duplicate.parameters(), model.parameters(), strict=True):
            assert torch.equal(parameter, original) and parameter.data_ptr() != original.data_ptr()
        assert torch.equal(logits_of(model, tokens), sparse)
        with sd.sparsify(duplicate, "all_inputs", RULE) as other:
            assert torch.equal(logits_of(duplicate, tokens), sparse)
    assert len(other.stats()) == len(outer.stats()) + len(sparsifier.stats())
    for table in (outer.stats(), sparsifier.stats()):
        assert table.groupby("layer")["tokens"].sum().nunique() == 1
        assert table["tokens"].sum() % (2 * tokens.numel()) == 0
    assert instance_attributes(model) == attributes
    assert torch.equal(logits_of(model, tokens), dense)


@torch.no_grad()
def test_a_saved_model_is_dense(llama, tokens, tmp_path):
    dense = llama(tokens).logits
    with sd.sparsify(llama, "all_inputs", RULE) as sparsifier:
        sparse = llama(tokens).logits
        llama.save_pretrained(tmp_path)
        torch.save(llama.state_dict(), tmp_path / "state.pt")
        assert torch.equal(llama(tokens).logits, sparse)
    assert set(sparsifier.stats()["tokens"]) == {2 * tokens.numel()}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(tokens).logits, dense)
    state = torch.load(tmp_path / "state.pt")
    assert all(torch.equal(state[name], tensor) for name, tensor in llama.state_dict().items())


@torch.no_grad()
def test_a_copy_of_one_layer_is_dense(llama):
    mlp = llama.model.layers[0].mlp
    x = torch.randn(2, 32)
    dense = mlp(x)
    with sd.sparsify(llama, "all_inputs", RULE):
        duplicate = copy.deepcopy(mlp)
        assert torch.equal(duplicate(x), dense)
        assert not torch.equal(mlp(x), dense)
    assert not any("forward" in vars(module) for module in duplicate.modules())


def test_hooks_and_patches_of_others_are_kept():
    linear = torch.nn.Linear(2, 2)
    linear.register_forward_pre_hook(_double_input, with_kwargs=False)
    patched = torch.nn.Sequential(linear)
    patched[0].forward = _Shifted(2.0)
    patch = InputPatch(linear, torch.zeros_like)
    from sparsedial.hooks.dense_copies import DenseCopies

    copies = DenseCopies(patched)
    x = torch.ones(1, 2)
    assert patched(x).tolist() == [[2, 2]]
    assert copy.deepcopy(patched)(x).tolist() == [[4, 4]]
    patch.remove()
    copies.remove()
    assert "__reduce_ex__" not in vars(linear)
    assert patched(x).tolist() == [[4, 4]]


def _double_input(_, args):
    return (2 * args[0],)


class _Shifted:
    """A forward that other code put in place of a module's own."""

    def __init__(self, shift):
        self.shift = shift

    def __call__(self, x):
        return x + self.shift
