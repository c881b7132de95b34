"""Accelerated models against sparsified ones."""

import copy

import pytest
import torch
import torch.nn.utils.prune

import sparsedial as sd
from sparsedial.acceleration import kernel_attachment
from sparsedial.errors import AttachError, ModelError, SpecError
from sparsedial.ffn.feed_forward import SITES
from tests.acceleration.conftest import HIDDEN
from tests.support.expert_models import build_model
from tests.support.transformed_calls import apply_negated, apply_trace, apply_vmap

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 8e-3}


def relative_difference(a, b):
    return ((a.float() - b.float()).abs().max() / b.float().abs().max()).item()


def sparsified_logits(model, ids, site, rule):
    with torch.no_grad(), sd.sparsify(model, site, rule):
        return model(ids).logits


def sites_of(kind):
    return [site for site in SITES if site != "gate" or kind in ("llama", "phi3")]


@pytest.mark.parametrize("tokens", [1, 3, 8, 12])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3", "opt"])
def test_logits_agree_with_sparsify_at_every_site(make_model, kind, tokens):
    model = make_model(kind)
    ids = torch.arange(1, tokens + 1)[None]
    for site in sites_of(kind):
        expected = sparsified_logits(model, ids, site, sd.TopP(0.8))
        with sd.accelerate(model, site, sd.TopP(0.8), prefill="sparse") as fast:
            assert relative_difference(fast(ids).logits, expected) < TOLERANCE[torch.float32], site
            assert torch.equal(fast(ids).logits, fast(ids).logits)
            report = fast.report()
        assert (report.calls == 0) == (tokens > 8)
        assert tokens > 3 or report.read_share < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", [sd.TopP(0.7), sd.TopK(0.4), sd.MaxP(0.1)])
def test_16_bit_models_agree_within_their_precision(make_model, dtype, rule):
    model = make_model(dtype=dtype)
    ids = torch.arange(1, 4)[None]
    expected = sparsified_logits(model, ids, "all_inputs", rule)
    with sd.accelerate(model, "all_inputs", rule) as fast:
        assert relative_difference(fast(ids).logits, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("site", ["up", "all_inputs"])
def test_restore_gives_the_same_bits_in_the_same_layout(make_model, kind, site):
    model = make_model(kind)
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in model.state_dict().items()}
    parameters = list(model.parameters())
    with sd.accelerate(model, site, sd.TopP(0.5)) as fast:
        for name, tensor in fast.dense_model.state_dict().items():
            assert torch.equal(tensor, before[name][0])
        fast.generate(torch.arange(1, 4)[None], max_new_tokens=2, do_sample=False, pad_token_id=0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.stride() == before[name][1]
    assert all(new is old for new, old in zip(model.parameters(), parameters, strict=True))
    assert not any("forward" in vars(module) for module in model.modules())
    with sd.sparsify(model, site, sd.TopP(0.5)):
        model(torch.arange(3)[None])


def test_weights_are_stored_once(make_model):
    model = make_model()

    def stored_bytes():
        storages = {}
        for parameter in model.parameters():
            storages[parameter.untyped_storage().data_ptr()] = parameter.untyped_storage().nbytes()
        return sum(storages.values())

    before = stored_bytes()
    with sd.accelerate(model, "all_inputs", sd.TopP(0.5)) as fast, torch.no_grad():
        assert stored_bytes() == before
        token = torch.tensor([[5]])
        logits = fast(token).logits
        model.model.layers[0].mlp.up_proj.weight.neg_()
        assert not torch.equal(fast(token).logits, logits)  # the kernels read the parameters


def test_dense_prefill_equals_the_dense_model_and_is_recorded(make_model):
    model = make_model()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = model(ids).logits
    with sd.accelerate(model, "all_inputs", sd.TopP(0.3)) as fast:
        assert relative_difference(fast(ids).logits, expected) < TOLERANCE[torch.float32]
        report = fast.report()
    assert (report.prefill, report.prefill_calls, report.calls) == ("dense", 4, 0)


def test_report_counts_the_sparsity_of_sparsify(make_model):
    model = make_model()
    ids = torch.arange(1, 6)[None]
    with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.6)) as sparsifier:
        model(ids)
    expected = sparsifier.stats().sparsity.tolist()
    with sd.accelerate(model, "all_inputs", sd.TopP(0.6)) as fast:
        fast(ids)
        table = fast.report().table
    assert table.sparsity.tolist() == pytest.approx(expected)


def test_a_dense_call_is_not_reported_as_sparse(make_model):
    model = make_model()
    with sd.accelerate(model, "all_inputs", sd.TopK(1.0)) as fast:
        fast(torch.arange(1, 3)[None])
        report = fast.report()
    assert report.dense_call_share == report.dense_byte_share == report.read_share == 1


def test_generate_with_dynamic_and_static_cache_gives_the_tokens_of_sparsify(make_model):
    model = make_model()
    ids = torch.arange(1, 6)[None]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with sd.sparsify(model, "all_inputs", sd.TopP(0.7)):
        expected = model.generate(ids, **options)
    with sd.accelerate(model, "all_inputs", sd.TopP(0.7)) as fast:
        assert torch.equal(fast.generate(ids, **options), expected)
        assert torch.equal(fast.generate(ids, cache_implementation="static", **options), expected)


@pytest.mark.parametrize("site", ["gate", "all_inputs"])
def test_compiled_model_gives_the_same_bits(make_model, site):
    model = make_model()
    ids = torch.arange(1, 4)[None]
    with sd.accelerate(model, site, sd.TopP(0.7)) as fast:
        expected = fast(ids).logits
        fast.reset()
        compiled = torch.compile(fast, backend="eager", fullgraph=True)
        assert torch.equal(compiled(ids).logits, expected)
        assert fast.report().calls > 0


@pytest.mark.parametrize("site", ["gate", "input", "all_inputs"])
def test_compiled_projections_of_one_vector_are_computed_together(make_model, monkeypatch, site):
    monkeypatch.setattr(kernel_attachment, "find_formula", lambda *_: None)  # as on a device without whole FFNs
    model = make_model()
    ids = torch.arange(1, 4)[None]
    with sd.accelerate(model, site, sd.TopP(0.7)) as fast:
        expected = fast(ids).logits
        calls = fast.report().calls
        compiled = torch.compile(fast, backend="eager", fullgraph=True)
        for _ in range(2):
            fast.reset()
            assert torch.equal(compiled(ids).logits, expected)
            assert fast.report().calls == calls > 0


def test_a_forward_with_gradients_applies_the_rule_and_has_gradients(make_model):
    model = make_model()
    ids = torch.arange(1, 4)[None]
    expected = sparsified_logits(model, ids, "all_inputs", sd.TopP(0.7))
    with sd.accelerate(model, "all_inputs", sd.TopP(0.7)):
        logits = model(ids).logits
        logits.sum().backward()
    assert relative_difference(logits, expected) < TOLERANCE[torch.float32]
    assert model.model.layers[0].mlp.up_proj.weight.grad.shape == model.model.layers[0].mlp.up_proj.weight.shape


def test_other_layers_stay_dense_and_other_vectors_may_be_sparsified(make_model):
    model = make_model()
    with sd.accelerate(model, "input", sd.TopP(0.7), layers=[1]) as fast:
        fast(torch.arange(1, 3)[None])
        assert set(fast.report().table.layer) == {1}
        with pytest.raises(AttachError, match="already sparsified at input"):
            sd.sparsify(model, "input", sd.TopP(0.5), layers=[1]).__enter__()
        with sd.sparsify(model, "intermediate", sd.TopK(0.5)) as sparsifier:
            fast(torch.arange(1, 3)[None])
        assert sparsifier.sparsity() == pytest.approx(0.5)


def test_a_copy_of_the_model_is_dense(make_model):
    model = make_model()
    ids = torch.arange(1, 3)[None]
    with torch.no_grad():
        expected = model(ids).logits
        with sd.accelerate(model, "all_inputs", sd.TopP(0.3)) as fast:
            assert relative_difference(copy.deepcopy(model)(ids).logits, expected) < TOLERANCE[torch.float32]
            with pytest.raises(AttachError, match="cannot be copied"):
                copy.deepcopy(fast)


def tie_weights(model):
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    return "tied"


def wrap_projection(model):
    class Wrapped(torch.nn.Linear):
        pass

    model.model.layers[0].mlp.down_proj = Wrapped(100, HIDDEN, bias=False)
    return "another kind"


def parametrize_projection(model):
    torch.nn.utils.prune.l1_unstructured(model.model.layers[0].mlp.up_proj, "weight", 0.5)
    return "pruned or parametrized"


def use_float64(model):
    model.double()
    return "float64: expected one dtype of float32, bfloat16"


@pytest.mark.parametrize("change", [tie_weights, wrap_projection, parametrize_projection, use_float64])
def test_unsupported_weights_raise_an_error_that_says_what_is_supported(make_model, change):
    model = make_model()
    expected = change(model)
    with pytest.raises(ModelError, match=expected):
        sd.accelerate(model, "all_inputs", sd.TopP(0.5))
    assert not any("forward" in vars(module) for module in model.modules())


def test_experts_raise_an_error():
    with pytest.raises(ModelError, match="mixture of experts"):
        sd.accelerate(build_model("mixtral"), "input", sd.TopP(0.5))


def test_unknown_arguments_raise_errors(make_model):
    model = make_model()
    with pytest.raises(SpecError, match="prefill 'masked'"):
        sd.accelerate(model, "input", sd.TopP(0.5), prefill="masked")
    with pytest.raises(SpecError, match="site"):
        sd.accelerate(model, "inputs", sd.TopP(0.5))
    with sd.accelerate(model, "input", sd.TopP(0.5)) as fast, pytest.raises(AttachError, match="accelerated already"):
        sd.accelerate(fast, "input", sd.TopP(0.5))


def test_weights_can_be_trained_after_acceleration_in_inference_mode(make_model):
    model = make_model()
    ids = torch.arange(1, 4)[None]
    with torch.inference_mode(), sd.accelerate(model, "input", sd.TopP(0.8)) as fast:
        fast(ids)
    model(ids).logits.sum().backward()
    assert not any(parameter.is_inference() for parameter in model.parameters())


@pytest.mark.parametrize("apply", [apply_vmap, apply_trace, apply_negated])
@pytest.mark.parametrize("site", ["all_inputs", "gate"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_transformed_ffn_applies_the_rule(make_model, apply, site):
    model = make_model().requires_grad_(False)
    x = torch.randn(2, 40)
    with sd.sparsify(model, site, sd.TopP(0.6)):
        expected = model.model.layers[0].mlp(x)
    with sd.accelerate(model, site, sd.TopP(0.6)):
        assert relative_difference(apply(model.model.layers[0].mlp, x), expected) < TOLERANCE[torch.float32]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_forward_mode_differentiation_has_the_derivative_of_sparsify(make_model):
    model = make_model().requires_grad_(False)
    x, direction = torch.randn(2, 2, 40).unbind()
    with sd.sparsify(model, "all_inputs", sd.TopP(0.6)):
        expected = torch.func.jvp(model.model.layers[0].mlp, (x,), (direction,))[1]
    with sd.accelerate(model, "all_inputs", sd.TopP(0.6)):
        tangent = torch.func.jvp(model.model.layers[0].mlp, (x,), (direction,))[1]
    assert relative_difference(tangent, expected) < TOLERANCE[torch.float32]


def test_a_vector_of_another_width_is_the_error_of_the_layer(make_model):
    model = make_model()
    with sd.accelerate(model, "all_inputs", sd.TopP(0.6)), torch.no_grad():
        for module in (model.model.layers[0].mlp, model.model.layers[0].mlp.down_proj):
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                module(torch.ones(1, 1, 20))
