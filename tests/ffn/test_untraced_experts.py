"""Experts that the trace does not show: idle ones in lists, and stacked ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsedial as sd
from sparsedial.errors import ModelError
from sparsedial.ffn import FFNs
from tests.support.ffn_modules import FUSED_LAYOUTS, HIDDEN, WIDTH, FusedFFN, GatedFFN, ListedExperts, Net, PlainFFN


def interleaved_ffn():
    return FusedFFN(FUSED_LAYOUTS["interleaved"][0])


@pytest.mark.parametrize("expert", [GatedFFN, PlainFFN, interleaved_ffn])
def test_all_experts_in_a_list_are_found_although_one_is_active(expert):
    net = Net(ListedExperts(expert), GatedFFN, ListedExperts(expert))
    ffns = sd.find_ffns(net)
    assert not ffns.unsupported
    assert [(f.layer, f.expert) for f in ffns] == [
        *((0, e) for e in range(4)),
        (1, None),
        *((2, e) for e in range(4)),
    ]
    assert [f.name for f in ffns if f.layer == 2] == [f"layers.2.experts.{e}" for e in range(4)]
    x = torch.randn(6, HIDDEN)
    with torch.no_grad():
        for index, module in enumerate(net.layers[0].experts):
            dense = module(x)
            with sd.sparsify(net, "up", sd.TopP(0.5), ffns=FFNs([f for f in ffns if f.expert == index])):
                assert not torch.equal(module(x), dense)
            with sd.sparsify(net, "up", sd.TopP(1), ffns=ffns):
                assert torch.equal(module(x), dense)


def test_an_idle_expert_that_cannot_be_called_is_unsupported():
    class WeightedFFN(GatedFFN):
        def forward(self, x, *, weight=None):
            if weight is None:
                raise ValueError("no weight")
            return super().forward(x) * weight

    class WeightedExperts(ListedExperts):
        def __init__(self):
            super().__init__(WeightedFFN)

        def forward(self, x):
            flat = x.reshape(-1, HIDDEN)
            return self.experts[1](flat[torch.arange(len(flat))], weight=2.0).view_as(x)

    ffns = sd.find_ffns(Net(GatedFFN, WeightedExperts))
    assert [(f.layer, f.expert) for f in ffns] == [(0, None), (1, 1)]
    assert list(ffns.unsupported) == [f"layers.1.experts.{e}" for e in (0, 2, 3)]
    with pytest.raises(
        ModelError, match=r"layers.1.experts.0 cannot be sparsified: no token of the trace was routed to it"
    ):
        sd.sparsify(Net(GatedFFN, WeightedExperts), "input", sd.TopP(0.5))


def test_stacked_experts_outside_the_experts_interface_are_unsupported():
    class StackedExperts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.randn(4, HIDDEN, WIDTH))

        def forward(self, x):
            return F.relu(x @ self.up[0]) @ self.up[1].T

    ffns = sd.find_ffns(Net(StackedExperts))
    assert len(ffns) == 0
    (reason,) = ffns.unsupported.values()
    assert list(ffns.unsupported) == ["layers.0"]
    assert reason.startswith("StackedExperts stacks its experts' weights in one parameter and runs them by itself")
