"""Models that use PyTorch's higher-order operators, which call functions: flex attention, `torch.cond` and others."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import sparsedial as sd
from sparsedial.errors import ModelError
from sparsedial.ffn import SITES
from tests.support.ffn_modules import GatedFFN, Net

IDS = torch.arange(6)[None]


def build_llama(attention):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=64,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.filterwarnings("ignore")  # transformers calls flex attention in a way that PyTorch has deprecated.
@torch.no_grad()
def test_flex_attention_has_the_sites_of_other_attention():
    inputs = {"input_ids": torch.arange(3, 17).view(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    inputs["attention_mask"][1, :3] = 0
    eager, flex = build_llama("eager"), build_llama("flex_attention")
    assert [f.names for f in sd.find_ffns(flex)] == [f.names for f in sd.find_ffns(eager)]
    real = inputs["attention_mask"].bool()
    for site in SITES:
        with sd.sparsify(eager, site, sd.TopK(0.5)) as expected:
            logits = eager(**inputs).logits
        # Compiling flex attention takes seconds.
        with sd.sparsify(flex, site, sd.TopK(0.5)) as sparsifier, torch.compiler.set_stance("force_eager"):
            torch.testing.assert_close(flex(**inputs).logits[real], logits[real], rtol=1e-4, atol=1e-5)
        assert sparsifier.stats().equals(expected.stats())


class Conditional(nn.Module):
    """Runs one of two functions with `torch.cond`."""

    def __init__(self):
        super().__init__()
        self.ffn = GatedFFN()
        self.other = GatedFFN()


class FFNAfterConditional(Conditional):
    def forward(self, x):
        return self.ffn(torch.cond(x.sum() < 1e9, lambda y: y * 2, lambda y: y * 3, (x,)))


class FFNInConditional(Conditional):
    def forward(self, x):
        return torch.cond(x.sum() < 1e9, lambda y: self.ffn(y), lambda y: self.other(y), (x,))


class FFNAfterVmap(Conditional):
    def forward(self, x):
        return self.ffn(torch.vmap(self.other.up_proj)(x)[..., :8])


class FFNInVmap(Conditional):
    def forward(self, x):
        return torch.vmap(self.ffn)(x)


@pytest.mark.parametrize("layer", [FFNAfterConditional, FFNAfterVmap])
@torch.no_grad()
def test_an_ffn_beside_such_an_operator_works(layer):
    net = Net(layer)
    (ffn,) = sd.find_ffns(net)
    assert ffn.name == "layers.0.ffn"
    dense = net(IDS)
    with sd.sparsify(net, "all_inputs", sd.TopP(1)):
        assert torch.equal(net(IDS), dense)
    with sd.sparsify(net, "all_inputs", sd.TopP(0.5)) as sparsifier:
        assert not torch.equal(net(IDS), dense)
    assert 0 < sparsifier.sparsity() < 1


@pytest.mark.parametrize(("layer", "operator"), [(FFNInConditional, "cond"), (FFNInVmap, "vmap")])
def test_an_ffn_inside_such_an_operator_is_named_as_unsupported(layer, operator):
    net = Net(GatedFFN, layer)
    ffns = sd.find_ffns(net)
    assert [f.name for f in ffns] == ["layers.0"]
    assert set(ffns.unsupported) == {"layers.1.ffn"}
    with pytest.raises(ModelError, match=rf"layers.1.ffn cannot be sparsified: it runs in .* torch's '{operator}'"):
        sd.sparsify(net, "input", sd.TopP(0.5), ffns=ffns)
    with torch.no_grad(), sd.sparsify(net, "input", sd.TopP(0.5), ffns=ffns, layers=[0]) as sparsifier:
        net(IDS)
    assert sparsifier.sparsity() > 0
