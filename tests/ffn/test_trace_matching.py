"""Matching of traces: which projections form an FFN, and which only resemble one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsedial as sd
from sparsedial.ffn.trace_matching import match_module
from sparsedial.kernels import reference
from sparsedial.rules import TopP
from tests.support.ffn_modules import (
    FUSED_LAYOUTS,
    HIDDEN,
    WIDTH,
    Attention,
    BitNetFFN,
    FusedFFN,
    GatedFFN,
    GateNetwork,
    LatentAttention,
    LLaDALayer,
    Net,
    PlainFFN,
    ThresholdFFN,
    find_only_ffn,
    last_names,
)


@pytest.mark.parametrize("layout", FUSED_LAYOUTS)
def test_gate_and_up_of_a_fused_projection_are_distinguished(layout):
    split, gate, up = FUSED_LAYOUTS[layout]
    net = Net(FusedFFN(split))
    (ffn,) = sd.find_ffns(net)
    assert (ffn.gate.start, ffn.gate.step) == gate
    assert (ffn.up.start, ffn.up.step) == up
    assert ffn.width == ffn.gate.width == WIDTH
    assert len(ffn.input_projections) == 1
    layer = net.layers[0]
    x = torch.randn(5, HIDDEN)
    with torch.no_grad():
        pre_activation, u = split(layer.gate_up(x))
        g = F.silu(pre_activation)
        expected = {
            "gate": layer.down(reference.select(g, TopP(0.5))[0] * u),
            "up": layer.down(g * reference.select(u, TopP(0.5))[0]),
        }
        for site, y in expected.items():
            with sd.sparsify(net, site, sd.TopP(0.5)):
                torch.testing.assert_close(layer(x), y)


class GLUFFN(FusedFFN):
    """A gated FFN that calls `torch.nn.functional.glu`, which splits the fused projection by itself."""

    def __init__(self):
        super().__init__(None)

    def forward(self, x):
        return self.down(F.glu(self.gate_up(x)))


@torch.no_grad()
def test_glu_of_pytorch():
    net = Net(GLUFFN)
    (ffn,) = sd.find_ffns(net)
    assert (ffn.up.start, ffn.gate.start, ffn.width) == (0, WIDTH, WIDTH)
    layer = net.layers[0]
    x = torch.randn(5, HIDDEN)
    u, pre_activation = layer.gate_up(x).chunk(2, -1)
    expected = layer.down(reference.select(pre_activation.sigmoid(), TopP(0.5))[0] * u)
    with sd.sparsify(net, "gate", sd.TopP(0.5)):
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("parameters", [1, WIDTH])
def test_an_activation_with_parameters_per_entry(parameters):
    ffn = GatedFFN()
    ffn.act = nn.PReLU(parameters)
    if parameters > 1:  # PyTorch applies them to the second dimension.
        ffn.act.forward = lambda x: F.prelu(x.flatten(0, -2), ffn.act.weight).view_as(x)
    assert find_only_ffn(ffn).gated


@pytest.mark.parametrize("layer", [BitNetFFN, ThresholdFFN, LLaDALayer])
def test_gates_of_other_kinds(layer):
    ffn = find_only_ffn(layer)
    assert (ffn.gated, ffn.width) == (True, WIDTH)
    assert last_names(ffn)["up"] == "up_proj"
    assert last_names(ffn)["gate"] in ("gate_proj", "ff_proj")
    assert ffn.name == "layers.0"


@pytest.mark.parametrize("layer", [Attention, LatentAttention, GateNetwork])
def test_modules_that_only_resemble_an_ffn_do_not_match(layer):
    assert [f.layer for f in sd.find_ffns(Net(layer, GatedFFN))] == [1]


def test_match_of_a_module_called_by_itself():
    x = torch.zeros(1, HIDDEN)
    match = match_module(GatedFFN(), x, "layers.3.mlp")
    assert match.names == {
        "up": "layers.3.mlp.up_proj",
        "gate": "layers.3.mlp.gate_proj",
        "down": "layers.3.mlp.down_proj",
    }
    assert (match.path, match.hidden, match.width) == ("layers.3.mlp", HIDDEN, WIDTH)
    assert match.intermediate_is_product
    assert match_module(PlainFFN(), x).names == {"up": "c_fc", "down": "c_proj"}


def test_no_match_for_a_module_with_several_ffns_or_another_input():
    two_ffns = torch.nn.Sequential(GatedFFN(), GatedFFN())
    assert match_module(two_ffns, torch.zeros(1, HIDDEN)) is None
    assert match_module(GatedFFN(), torch.zeros(1, HIDDEN + 1)) is None
