"""Attaching a rule, the errors of a wrong request, compilation, and the removal of every trace."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import AttachError, ModelError, NonFiniteError, SpecError
from sparsedial.ffn.feed_forward import SITES
from sparsedial.hooks.sparsifier_pause import pause_sparsifiers
from sparsedial.hooks.vector_reservation import is_sparsified
from tests.support.hooks import count_hooks

CASES = [
    *(("llama", site) for site in SITES),
    *(("phi3", site) for site in SITES),
    *(("gpt2", site) for site in SITES if site != "gate"),
]


@pytest.fixture
def model(request):
    return request.getfixturevalue(request.param)


def test_the_representation_shows_site_rule_and_state(llama):
    sparsifier = sd.sparsify(llama, "input", sd.TopP(0.9))
    assert repr(sparsifier) == "Sparsifier(site='input', rule=TopP(p=0.9), ffns=3, not attached)"
    with sparsifier:
        assert repr(sparsifier).endswith(", attached)")


@pytest.mark.parametrize(("model", "site"), CASES, indirect=["model"])
@torch.inference_mode()
def test_the_dense_value_is_bit_identical_to_dense_and_a_smaller_one_is_not(model, site, tokens):
    dense = model(tokens).logits
    for rule in (sd.TopP(1), sd.TopK(1), sd.MaxP(0)):
        with sd.sparsify(model, site, rule) as sparsifier:
            assert torch.equal(model(tokens).logits, dense)
        assert len(sparsifier.stats()) == 3 * (2 if site == "all_inputs" else 1)
    with sd.sparsify(model, site, sd.TopP(0.5)) as sparsifier:
        assert not torch.equal(model(tokens).logits, dense)
    assert 0.2 < sparsifier.sparsity() < 0.95
    assert torch.equal(model(tokens).logits, dense)
    assert count_hooks(model) == 0


def test_different_sites_may_be_nested_and_the_same_site_may_not(llama, tokens):
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(0.9)) as outer:
        with sd.sparsify(llama, "intermediate", sd.TopP(0.9)) as inner:
            llama(tokens)
        for site in ("input", "all_inputs"):
            with pytest.raises(AttachError, match="already"), sd.sparsify(llama, site, sd.TopP(0.5)):
                pass
        with pytest.raises(AttachError, match="already"), outer:
            pass
        with sd.sparsify(llama, "intermediate", sd.TopP(0.5)):  # the site is free now
            llama(tokens)
    assert set(inner.stats()["vector"]) == {"intermediate"}
    assert set(outer.stats()["total"]) == {2 * 48 * 32}
    assert count_hooks(llama) == 0


def test_layers_can_be_chosen(llama, tokens):
    with torch.no_grad(), sd.sparsify(llama, "gate", sd.TopP(0.9), layers=[0, 2]) as sparsifier:
        llama(tokens)
    assert sparsifier.stats()["layer"].tolist() == [0, 2]
    with pytest.raises(SpecError, match=r"\[7\]"):
        sd.sparsify(llama, "gate", sd.TopP(0.9), layers=[7])


def test_errors_name_what_is_available(gpt2, llama):
    with pytest.raises(ModelError, match=r"no gate.*Available sites: input, up, intermediate, all_inputs"):
        sd.sparsify(gpt2, "gate", sd.TopP(0.9))
    with pytest.raises(SpecError, match=r"outputs.*input, up"):
        sd.sparsify(llama, "outputs", sd.TopP(0.9))
    with pytest.raises(SpecError, match=r"TopP\(0.9\)"):
        sd.sparsify(llama, "input", 0.9)


def test_an_ffn_that_was_never_reached_is_an_error(llama):
    with sd.sparsify(llama, "input", sd.TopP(0.9)) as sparsifier:
        pass
    with pytest.raises(AttachError, match=r"never reached: model.layers.0.mlp"):
        sparsifier.stats()


def test_nan_is_reported_with_its_layer(llama, tokens):
    weight = llama.model.layers[1].mlp.up_proj.weight
    with torch.no_grad(), sd.sparsify(llama, "intermediate", sd.TopP(0.9)) as sparsifier:
        before = weight[3, 3].item()
        weight[3, 3] = float("nan")
        try:
            logits = llama(tokens).logits
        finally:
            weight[3, 3] = before
    assert logits.isnan().any()
    with pytest.raises(NonFiniteError, match=r"layer\(s\) \[1, 2\].*model.layers.1.mlp"):
        sparsifier.stats()


@pytest.mark.parametrize(
    "site", [pytest.param(site, marks=() if site == "all_inputs" else pytest.mark.slow) for site in SITES]
)
def test_compiles_as_one_graph(llama, tokens, site):
    torch._dynamo.reset()
    with torch.no_grad(), sd.sparsify(llama, site, sd.TopP(0.8)) as sparsifier:
        eager = llama(tokens).logits
    with torch.no_grad(), sd.sparsify(llama, site, sd.TopP(0.8)) as compiled:
        out = torch.compile(llama, fullgraph=True, backend="aot_eager")(tokens).logits
    torch.testing.assert_close(out, eager, rtol=1e-4, atol=1e-5)
    assert compiled.stats().equals(sparsifier.stats())


@pytest.mark.usefixtures("fast_decode")
def test_a_single_layer_may_be_compiled(own_llama, tokens):
    torch._dynamo.reset()
    model = own_llama
    single = tokens[:1, :1]
    with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as sparsifier:
        eager = [model(x).logits for x in (tokens, single, single)]
    model.model.layers[0].compile(backend="aot_eager", fullgraph=True)
    with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as compiled:
        out = [model(x).logits for x in (tokens, single, single)]
    torch.testing.assert_close(out, eager, rtol=1e-4, atol=1e-5)
    assert compiled.stats().equals(sparsifier.stats())


def test_a_compiled_layer_is_not_compiled_again_for_each_step_or_mask(own_llama, tokens):
    torch._dynamo.reset()
    model = own_llama
    model.model.layers[0].mlp.compile(backend="aot_eager", fullgraph=True)
    with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as sparsifier:
        model(tokens)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for step in range(3):
                mask = torch.ones(4, 12, dtype=torch.int64)
                mask[:, :step] = 0
                with sparsifier.observe(step=step):
                    model(tokens, attention_mask=mask)
    assert sparsifier.stats()["step"].nunique() == 3


def test_the_profiler_shows_the_operator_by_its_name(llama, tokens):
    with sd.sparsify(llama, "all_inputs", sd.TopP(0.8)):
        llama(tokens)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            llama(tokens)
    [operator] = [event for event in profile.key_averages() if event.key == "sparsedial::select"]
    assert operator.count == 2 * llama.config.num_hidden_layers


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("shape", [(4, 12), (1, 1)])
def test_paused_forward_passes_are_dense_and_not_counted(own_llama, tokens, site, shape):
    tokens = tokens[: shape[0], : shape[1]]
    with torch.inference_mode():
        dense = own_llama(tokens).logits
        with sd.sparsify(own_llama, site, sd.TopP(0.5)) as sparsifier:
            sparse = own_llama(tokens).logits
            before = sparsifier.stats()
            with pause_sparsifiers():
                assert torch.equal(own_llama(tokens).logits, dense)
                sd.find_ffns(own_llama)  # has its own pause, which does not end the outer one
                assert torch.equal(own_llama(tokens).logits, dense)
            assert sparsifier.stats().equals(before)
            assert torch.equal(own_llama(tokens).logits, sparse)
        assert (sparsifier.stats()["total"] == 2 * before["total"]).all()


def test_a_model_is_sparsified_while_a_sparsifier_is_attached(own_llama):
    assert not is_sparsified(own_llama)
    with sd.sparsify(own_llama, "input", sd.TopP(0.5), layers=[1]):
        assert is_sparsified(own_llama)
    assert not is_sparsified(own_llama)


@pytest.mark.parametrize("model", ["zoo:dense-0.4m", None, object()], ids=["name", "none", "object"])
def test_what_is_no_model_is_refused(model, llama):
    ffns = sd.find_ffns(llama)
    message = f"got an object of type {type(model).__name__}: expected a model in memory"
    for call in (lambda: sd.find_ffns(model), lambda: sd.sparsify(model, "input", sd.TopP(0.5), ffns=ffns)):
        with pytest.raises(SpecError, match=message):
            call()


@pytest.mark.parametrize("site", ["input", "attention_input"])
def test_a_list_of_ffns_is_refused(llama, site):
    with pytest.raises(SpecError, match="ffns=: got an object of type list: expected the result of find_ffns"):
        sd.sparsify(llama, site, sd.TopP(0.5), ffns=list(sd.find_ffns(llama)))


@torch.no_grad()
def test_flags_of_tokens_are_tensors(llama, tokens):
    with sd.sparsify(llama, "input", sd.TopP(0.5)) as sparsifier:
        for argument in ("real", "masked", "thinking"):
            flags = [[True] * tokens.shape[1]] * tokens.shape[0]
            with (
                pytest.raises(SpecError, match=f"^{argument}=.*: expected a boolean tensor with one entry per token"),
                sparsifier.observe(**{argument: flags}),
            ):
                pass
        real = torch.ones(tokens.shape)
        real[:, 0] = 0.0
        with sparsifier.observe(real=real):
            llama(tokens)
    assert set(sparsifier.stats()["tokens"]) == {tokens.numel() - len(tokens)}
