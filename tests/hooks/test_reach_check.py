"""A sparse run that would be dense is an error that names the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparsedial as sd
from sparsedial.errors import AttachError, SpecError
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.reach_check import describe_unreached

COMPILE = {
    "in place": lambda model: model.compile(backend="eager"),
    "the layers": lambda model: [layer.compile(backend="eager") for layer in model.model.layers],
    "the FFNs": lambda model: [layer.mlp.compile(backend="eager") for layer in model.model.layers],
}


@pytest.mark.parametrize(
    ("how", "site"),
    [
        pytest.param("in place", "gate", marks=pytest.mark.slow),
        ("the layers", "all_inputs"),
        pytest.param("the FFNs", "up", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_was_compiled_and_run_before_is_sparsified(own_llama, tokens, how, site):
    torch._dynamo.reset()
    with torch.no_grad():
        dense = own_llama(tokens).logits
        expected = []
        for p in (0.5, 0.9):
            with sd.sparsify(own_llama, site, sd.TopP(p)) as sparsifier:
                expected.append((own_llama(tokens).logits, sparsifier.stats()))
        COMPILE[how](own_llama)
        for p, (logits, stats) in zip((0.5, 0.9), expected, strict=True):
            torch.testing.assert_close(own_llama(tokens).logits, dense, rtol=1e-4, atol=1e-5)
            with sd.sparsify(own_llama, site, sd.TopP(p)) as sparsifier:
                torch.testing.assert_close(own_llama(tokens).logits, logits, rtol=1e-4, atol=1e-5)
            assert sparsifier.stats().equals(stats)


@pytest.mark.parametrize("order", [pytest.param("wrapper", marks=pytest.mark.slow), "forward"])
def test_a_compiled_wrapper_or_forward_is_sparsified(own_llama, tokens, order):
    torch._dynamo.reset()
    run = own_llama
    if order == "wrapper":
        run = torch.compile(own_llama, backend="eager")
    else:
        own_llama.forward = torch.compile(own_llama.forward, backend="eager")
    with torch.no_grad():
        dense = run(tokens).logits
        with sd.sparsify(own_llama, "gate", sd.TopP(0.5)) as sparsifier:
            assert not torch.allclose(run(tokens).logits, dense)
        assert set(sparsifier.stats()["tokens"]) == {48}


class BypassingModel(nn.Module):
    """A model whose layers can be computed without calling their modules, as fused code does."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(96, 8)
        self.layers = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(8, 16), "down": nn.Linear(16, 8)}) for _ in "ab"])
        self.skipped = set()
        self.fused = False

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for index, layer in enumerate(self.layers):
            if index in self.skipped:
                continue
            if self.fused:
                hidden = torch.relu(nn.functional.linear(x, layer.up.weight, layer.up.bias))
                x = nn.functional.linear(hidden, layer.down.weight, layer.down.bias)
            else:
                x = layer.down(torch.relu(layer.up(x)))
        return x


def test_fused_code_is_an_error_at_the_end_of_the_block_and_in_stats(tokens):
    model = BypassingModel()
    sparsifier = sd.sparsify(model, "input", sd.TopP(0.5))
    model.fused = True
    message = r"never reached: layers\.0.*dense.*not executed by this model"
    with pytest.raises(AttachError, match=message), torch.no_grad(), sparsifier:
        model(tokens)
    with pytest.raises(AttachError, match="never reached"):
        sparsifier.stats()


def test_an_exception_of_the_model_is_not_hidden(tokens):
    model = BypassingModel()
    sparsifier = sd.sparsify(model, "input", sd.TopP(0.5))
    model.fused = True
    with pytest.raises(ZeroDivisionError), sparsifier:
        model(tokens)
        raise ZeroDivisionError


def test_a_layer_that_the_model_skips_is_no_error_but_all_of_them_are(tokens):
    model = BypassingModel()
    sparsifier = sd.sparsify(model, "input", sd.TopP(0.5))
    model.skipped = {1}
    with torch.no_grad(), sparsifier:
        model(tokens)
    assert sparsifier.stats()["layer"].tolist() == [0]
    model.skipped = set()
    sparsifier = sd.sparsify(model, "input", sd.TopP(0.5))
    model.skipped = {0, 1}
    with pytest.raises(AttachError, match="never reached"), sparsifier:
        model(tokens)


def test_ffns_of_another_model_are_an_error(llama, own_llama):
    with pytest.raises(SpecError, match=r"ffns=: model\.layers\.0\.mlp is not a module of this model"):
        sd.sparsify(llama, "input", sd.TopP(0.5), ffns=sd.find_ffns(own_llama))


def test_a_replica_of_data_parallel_is_an_error(llama, tokens):
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(0.5)) as sparsifier:
        llama(tokens)
        replica = llama._replicate_for_data_parallel()
        with pytest.raises(AttachError, match=r"replica made by torch\.nn\.DataParallel"):
            replica(tokens)
    assert set(sparsifier.stats()["tokens"]) == {48}


class EncoderModel(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(96, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, input_ids, padding=None):
        return self.encoder(self.embed(input_ids), src_key_padding_mask=padding)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # that is what the dense encoder uses
@pytest.mark.parametrize("length", [12, 7])
def test_the_fast_path_of_an_encoder_is_not_taken(tokens, length):
    model = EncoderModel().eval()
    padding = torch.zeros_like(tokens, dtype=torch.bool)
    padding[1, length:] = True
    with torch.no_grad():
        dense = model(tokens, padding)
        with sd.sparsify(model, "intermediate", sd.TopP(0.5)) as sparsifier:
            sparse = model(tokens, padding)
        assert not torch.allclose(sparse[0], dense[0])
        assert torch.equal(model(tokens, padding), dense)
        assert model.encoder.use_nested_tensor
    assert set(sparsifier.stats()["tokens"]) == {36 + length}


def test_experts_without_tokens_are_not_missing():
    keys = [CounterKey(0, f"layers.0.moe.{expert}", "input", expert, 8, "layers.0.moe") for expert in range(3)]
    model = nn.Module()
    assert describe_unreached(keys, {1}, model, has_run=True) is None
    message = describe_unreached(keys, set(), model, has_run=True)
    assert message.startswith("These vectors were never reached: layers.0.moe (input). The model is dense there.")
    assert "No forward pass" in describe_unreached(keys, set(), model, has_run=False)
