"""Sites that are registered: what they declare, what they select, and what can be skipped."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.ffn import ModuleVector, Site, check_site, register_site, skippable_mac_share
from sparsedial.ffn.sites import registered_site_version, select_site_ffns

pytestmark = pytest.mark.usefixtures("registrations")

OUTPUT = ModuleVector("output", lambda ffn: ffn.down, "output", lambda ffn: ffn.output_size)
DOWN_INPUT = ModuleVector("down_input", lambda ffn: ffn.down, "input", lambda ffn: ffn.width)


def define_site(**attributes):
    """Return a new subclass of `Site`."""
    return type("Custom", (Site,), {"name": "custom", "vectors": ("input",), **attributes})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"vectors": ()}, "expected a tuple of at least one vector"),
        ({"vectors": ["input"]}, "expected a tuple"),
        ({"vectors": ("inputs",)}, "vector 'inputs': expected one of input, up, gate, intermediate"),
        ({"vectors": ("input", "input")}, "a vector is listed twice"),
        ({"vectors": (ModuleVector("up", lambda ffn: ffn.down, "output", lambda ffn: 1),)}, "of another name"),
        ({"vectors": ("up", "gate")}, "up, gate save cannot be computed: define skippable_macs"),
        ({"vectors": ("gate", "intermediate")}, "define skippable_macs"),
        ({"vectors": (OUTPUT,)}, "define skippable_macs"),
        ({"version": 0}, "version 0: expected a whole number"),
        ({"name": "input"}, "the site 'input' exists already, in sparsedial"),
    ],
)
def test_what_a_site_declares_is_checked(attributes, message):
    with pytest.raises(SpecError, match=message):
        register_site(define_site(**attributes))


def test_only_classes_are_sites():
    with pytest.raises(SpecError, match=r"expected a subclass of sparsedial.Site, got 'input'"):
        register_site("input")


def test_disjoint_vectors_add_up(llama):
    register_site(define_site(vectors=("intermediate", "input")))
    [ffn, *_] = sd.find_ffns(llama)
    assert skippable_mac_share(ffn, "custom") == pytest.approx({"intermediate": 1 / 3, "input": 2 / 3})
    assert skippable_mac_share(ffn, "custom") == skippable_mac_share(ffn, "all_inputs")


@pytest.mark.parametrize("shares", [{"input": 1.1}, {"input": -0.1}, {"up": 0.1}, {}])
def test_declared_shares_are_checked(llama, shares):
    register_site(define_site(skippable_macs=lambda self, ffn: shares))
    with pytest.raises(SpecError, match="site 'custom': skippable_macs returned"):
        skippable_mac_share(sd.find_ffns(llama)[0], "custom")


def test_a_site_selects_among_all_layers(llama, tokens):
    register_site(define_site(select=lambda self, ffns: [ffn for ffn in ffns if ffn.layer < len(ffns) / 2]))
    with sd.sparsify(llama, "custom", sd.TopK(0.5)) as sparsifier:
        llama(tokens)
    assert sparsifier.stats()["layer"].tolist() == [0, 1]
    with sd.sparsify(llama, "custom", sd.TopK(0.5), layers=[1, 2]) as sparsifier:
        llama(tokens)
    assert sparsifier.stats()["layer"].tolist() == [1]
    with pytest.raises(SpecError, match=r"no FFN of the layers \[2\] belongs to it"):
        sd.sparsify(llama, "custom", sd.TopK(0.5), layers=[2])
    ffns = sd.find_ffns(llama)
    assert select_site_ffns(ffns, list(ffns), "input") == list(ffns)


def test_the_versions_of_registered_sites(llama):
    register_site(define_site(version=3))
    assert registered_site_version("custom") == 3
    assert registered_site_version("input") is None
    check_site(sd.find_ffns(llama), "custom")


def test_two_vectors_at_once_equal_two_sparsifiers(llama, tokens):
    register_site(define_site(vectors=("up", "gate"), skippable_macs=lambda self, ffn: {"up": 0.3, "gate": 0.6}))
    with sd.sparsify(llama, "custom", sd.TopK(0.5)) as sparsifier:
        logits = llama(tokens).logits
    with sd.sparsify(llama, "up", sd.TopK(0.5)), sd.sparsify(llama, "gate", sd.TopK(0.5)):
        assert torch.equal(llama(tokens).logits, logits)
    assert sparsifier.stats()["vector"].tolist() == ["up", "gate"] * 3


@pytest.mark.parametrize("vector", [OUTPUT, DOWN_INPUT], ids=lambda vector: vector.side)
def test_the_vector_of_a_module(llama, tokens, vector):
    register_site(define_site(vectors=(vector,), skippable_macs=lambda self, ffn: {vector.name: 0.0}))
    seen = []
    down = sd.find_ffns(llama)[0].down
    with sd.sparsify(llama, "custom", sd.TopK(0.25)) as sparsifier:
        hook = down.register_forward_hook(lambda module, args, output: seen.append(output))
        logits = llama(tokens).logits
        hook.remove()
    stats = sparsifier.stats()
    assert stats["vector"].tolist() == [vector.name] * 3
    assert stats["sparsity"].tolist() == [0.75] * 3
    if vector is OUTPUT:
        assert ((seen[0] != 0).sum(-1) == 8).all()
    else:
        with sd.sparsify(llama, "intermediate", sd.TopK(0.25)):
            assert torch.equal(llama(tokens).logits, logits)
    with sd.sparsify(llama, "custom", sd.TopP(1.0)):
        assert torch.equal(llama(tokens).logits, llama(tokens).logits)
