"""FFNs whose projections are named by the user."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import ModelError, SpecError
from tests.support.ffn_modules import Attention, GatedFFN, Net

PATTERNS = {"up": "layers.*.up_proj", "gate": "layers.*.gate_proj", "down": "layers.*.down_proj"}


def test_named_modules_are_the_ffns_that_discovery_finds():
    net = Net(GatedFFN, Attention, GatedFFN)
    named = sd.find_ffns(net, modules=PATTERNS)
    traced = sd.find_ffns(net)
    assert [(f.layer, f.name, dict(f.names), f.hidden, f.width) for f in named] == [
        (f.layer, f.name, dict(f.names), f.hidden, f.width) for f in traced
    ]
    assert named[0].unsupported_reason("up") is None
    assert named[0].unsupported_reason("intermediate") is None
    assert (
        named[0].unsupported_reason("gate")
        == "the gate's activation is unknown, because the modules were named by the user"
    )
    x = torch.arange(6)[None]
    with torch.no_grad(), sd.sparsify(net, "all_inputs", sd.TopP(0.5), ffns=traced):
        expected = net(x)
    with torch.no_grad(), sd.sparsify(net, "all_inputs", sd.TopP(0.5), ffns=named):
        assert torch.equal(net(x), expected)


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ({"up": "*.up_proj"}, SpecError, r"expected patterns for 'up', 'down' and, if gated, 'gate'"),
        (PATTERNS | {"side": "*"}, SpecError, "side"),
        (PATTERNS | {"gate": "*.gate"}, ModelError, r"up='layers.\*.up_proj' matched 2.*gate='\*.gate' matched 0"),
        ({"up": "x", "down": "y"}, ModelError, "at least one"),
        (PATTERNS | {"down": "*.gate_proj"}, ModelError, "do not fit together: down reads 8 entries"),
    ],
)
def test_patterns_that_do_not_fit_are_an_error(patterns, error, message):
    with pytest.raises(error, match=message):
        sd.find_ffns(Net(GatedFFN, GatedFFN), modules=patterns)
