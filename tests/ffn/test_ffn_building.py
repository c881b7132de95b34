"""Layers and experts of FFNs in lists."""

from torch import nn

import sparsedial as sd
from tests.support.ffn_modules import Attention, GatedFFN, ListedExperts, Net


def test_ffns_that_run_one_after_another_in_a_list_are_no_experts():
    class TwoFFNs(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = Attention()
            self.mlps = nn.ModuleList([GatedFFN(), GatedFFN()])

        def forward(self, x):
            x = x + self.attention(x)
            x = x + self.mlps[0](x)
            return x + self.mlps[1](x)

    ffns = sd.find_ffns(Net(TwoFFNs, TwoFFNs))
    assert [(f.layer, f.expert, f.name) for f in ffns] == [
        (0, None, "layers.0.mlps.0"),
        (0, None, "layers.0.mlps.1"),
        (1, None, "layers.1.mlps.0"),
        (1, None, "layers.1.mlps.1"),
    ]
    assert {f.active_fraction for f in ffns} == {1.0}


def test_experts_that_all_read_every_token():
    class DenseExperts(ListedExperts):
        def forward(self, x):
            weights = self.router(x).softmax(-1).split(1, -1)
            return sum(expert(x) * weight for expert, weight in zip(self.experts, weights, strict=True))

    ffns = sd.find_ffns(Net(DenseExperts))
    assert [(f.layer, f.expert) for f in ffns] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert {f.moe_path for f in ffns} == {"layers.0.experts"}
    assert {f.active_fraction for f in ffns} == {None}
