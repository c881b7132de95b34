"""Sites of an FFN, and the multiply-accumulates that each of them makes skippable."""

import pytest
import torch
from torch.nn import functional as F

import sparsedial as sd
from sparsedial.errors import ModelError, SpecError
from sparsedial.ffn import SITES, check_site, skippable_mac_share
from sparsedial.kernels import reference
from sparsedial.rules import TopP
from tests.support.ffn_modules import HIDDEN, GatedFFN, Net, PlainFFN, ScaledFFN, ShiftedFFN, find_only_ffn


def test_a_plain_ffn_has_no_gate():
    ffn = find_only_ffn(PlainFFN)
    assert ffn.unsupported_reason("gate") == "the FFN is plain, down(act(up(x))), and has no gate"
    with pytest.raises(
        ModelError, match=r"layers.0: no site 'gate'.*Available sites: input, up, intermediate, all_inputs"
    ):
        check_site([ffn], "gate")
    with pytest.raises(ModelError, match=r"layers.0: no vector 'gate'"):
        ffn.branch("gate")


def test_an_unknown_site_is_an_error():
    ffn = find_only_ffn(PlainFFN)
    with pytest.raises(SpecError, match=r"'hidden'.*input, up, gate"):
        check_site([ffn], "hidden")
    with pytest.raises(SpecError, match=r"'hidden'.*input, up, gate"):
        skippable_mac_share(ffn, "hidden")


def test_branches_compute_u_and_g():
    net = Net(ShiftedFFN)
    ffn = sd.find_ffns(net)[0]
    layer = net.layers[0]
    x = torch.randn(5, HIDDEN)
    with torch.no_grad():
        torch.testing.assert_close(ffn.compute_vector("up", layer.up_proj(x)), layer.up_proj(x) + 1)
        torch.testing.assert_close(ffn.compute_vector("gate", layer.gate_proj(x)), F.silu(layer.gate_proj(x)))
    assert not ffn.preserves_zero("up")
    assert ffn.preserves_zero("gate")


def test_zeros_that_the_projection_cannot_make_are_made_in_the_product():
    net = Net(ShiftedFFN)
    ffn = sd.find_ffns(net)[0]
    layer = net.layers[0]
    x = torch.randn(5, HIDDEN)
    assert ffn.unsupported_reason("up") is None
    assert ffn.unsupported_reason("gate") is None
    with torch.no_grad():
        u = layer.up_proj(x) + 1
        sparse_u = reference.select(u, TopP(0.5))[0]
        expected = layer.down_proj(F.silu(layer.gate_proj(x)) * sparse_u)
        with sd.sparsify(net, "up", sd.TopP(0.5)) as sparsifier:
            torch.testing.assert_close(layer(x), expected)
        assert sparsifier.stats()["dropped"].item() == int(((sparse_u == 0) & (u != 0)).sum())
        # If sites are nested in either order, the rule at i reads the intermediate vector of the sparse u.
        sparse_i = reference.select(F.silu(layer.gate_proj(x)) * sparse_u, TopP(0.5))[0]
        expected = layer.down_proj(sparse_i)
        for first, second in (("up", "intermediate"), ("intermediate", "up")):
            with sd.sparsify(net, first, sd.TopP(0.5)), sd.sparsify(net, second, sd.TopP(0.5)):
                torch.testing.assert_close(layer(x), expected)


def test_a_site_whose_zeros_cannot_be_made_anywhere_is_unsupported():
    ffn = find_only_ffn(ScaledFFN)
    assert ffn.unsupported_reason("up") == (
        "zero entries of the up projection's output would not be zero entries of the up vector"
    )
    assert ffn.unsupported_reason("gate") is None
    assert ffn.unsupported_reason("input") is None


def test_skippable_mac_shares():
    gated = find_only_ffn(GatedFFN)  # Three matrices of the same size.
    assert {site: skippable_mac_share(gated, site) for site in SITES} == {
        "input": {"input": 2 / 3},
        "intermediate": {"intermediate": 1 / 3},
        "all_inputs": {"input": 2 / 3, "intermediate": 1 / 3},
        "gate": {"gate": 2 / 3},
        "up": {"up": 2 / 3},
    }
    plain = find_only_ffn(PlainFFN)  # Two matrices of the same size.
    assert skippable_mac_share(plain, "input") == {"input": 1 / 2}
    assert skippable_mac_share(plain, "up") == {"up": 1 / 2}
    assert skippable_mac_share(plain, "all_inputs") == {"input": 1 / 2, "intermediate": 1 / 2}
