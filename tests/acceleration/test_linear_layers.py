"""Linear layers outside of the FFNs, which the dense kernel computes."""

import json

import pytest
import torch
import torch.nn.utils.prune
from torch import nn
from torch.autograd import forward_ad

import sparsedial as sd
from sparsedial.acceleration import call_timing, product_timing, timing_table
from sparsedial.acceleration.cpu_backend import make_backend
from sparsedial.acceleration.cpu_products import AllOutputs
from sparsedial.acceleration.linear_layers import LinearPatch
from sparsedial.acceleration.saved_settings import FILE_NAME
from sparsedial.acceleration.timing_table import LimitTable
from tests.acceleration.conftest import compute_with_threads

DTYPES = make_backend().dtypes
ERROR = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
RULE = sd.TopP(0.7)
IDS = torch.arange(1, 4)[None]
OTHERS_OF_LLAMA = 2 * 4 + 1  # q, k, v and o of each layer, and the output layer


def relative_error(result, expected):
    return ((result.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


@pytest.fixture
def faster_kernel(monkeypatch, tmp_path):
    """Let the table say that the dense kernel is faster than PyTorch for up to four vectors, whatever the size."""
    monkeypatch.setattr(timing_table, "MIN_LINEAR_BYTES", 0)
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "cache"))
    times = {"kernel": [1.0] * 4, "library": [2.0, 2.0, 2.0, 0.5]}
    monkeypatch.setattr(timing_table, "measure_linear_layer", lambda *_: times)


def accelerate(model, **options):
    return sd.accelerate(model, "all_inputs", RULE, **options)


def count_patches(fast):
    """Return the number of modules whose forward is that of a `LinearPatch`."""
    owners = (getattr(module.forward, "__self__", None) for module in fast.dense_model.modules())
    return sum(isinstance(owner, LinearPatch) for owner in owners)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", [1, 3, 8])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 16), (53, 37), (130, 700)])
def test_the_product_equals_its_definition(dtype, vectors, outputs, inputs):
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs).to(dtype)
    bias = torch.randn(outputs).to(dtype)
    x = torch.randn(vectors, inputs).to(dtype)
    expected = x.double() @ weight.double().t() + bias.double()
    assert relative_error(AllOutputs(weight, bias)(x), expected) < ERROR[dtype]
    assert relative_error(AllOutputs(weight, None)(x), expected - bias.double()) < ERROR[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_depends_neither_on_the_threads_nor_on_the_number_of_vectors(dtype):
    torch.manual_seed(0)
    weight = torch.randn(1000, 300).to(dtype)  # large enough for several threads
    x = torch.randn(1, 300).to(dtype)
    product = AllOutputs(weight, None)
    results = compute_with_threads(lambda: product(x))
    results.append(product(torch.cat([x, x, x]))[:1])
    assert all(torch.equal(result, results[0]) for result in results)


def test_products_of_equal_and_of_other_shapes_do_not_share_results():
    torch.manual_seed(0)
    weights = [torch.randn(40, 24), torch.randn(40, 24), torch.randn(24, 40)]
    products = [AllOutputs(weight, None) for weight in weights]
    for _ in range(2):
        for weight, product in zip(weights, products, strict=True):
            x = torch.randn(2, weight.shape[1])
            assert relative_error(product(x), x @ weight.t()) < 2e-6


@pytest.mark.parametrize(("kind", "layers"), [("llama", OTHERS_OF_LLAMA), ("gpt2", 1), ("opt", 9), ("phi3", 5)])
def test_a_model_computes_the_same_with_the_kernel(faster_kernel, make_model, kind, layers):
    model = make_model(kind)
    with torch.no_grad(), sd.sparsify(model, "all_inputs", RULE):
        expected = model(IDS).logits
    with accelerate(model) as fast:
        assert fast.report().linear_layers == layers
        assert relative_error(fast(IDS).logits, expected) < 1e-5
        assert torch.equal(fast(IDS).logits, fast(IDS).logits)
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_output_layer_that_is_tied_to_the_embedding_stays_tied(faster_kernel, make_model):
    model = make_model(tie_word_embeddings=True)
    with torch.no_grad():
        expected = model(IDS).logits
    with sd.accelerate(model, "all_inputs", sd.TopP(1.0)) as fast:
        assert count_patches(fast) == OTHERS_OF_LLAMA
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert relative_error(fast(IDS).logits, expected) < 1e-5


def test_the_kernel_is_used_for_as_many_vectors_as_it_is_faster_for(faster_kernel, make_model, monkeypatch):
    vectors = []
    compute = AllOutputs.__call__
    monkeypatch.setattr(AllOutputs, "__call__", lambda self, x: vectors.append(x.shape[1]) or compute(self, x))
    with accelerate(make_model()) as fast:
        fast(torch.arange(4)[None])
        fast(torch.arange(5)[None])
    assert vectors == [4] * OTHERS_OF_LLAMA


def test_layers_stay_unchanged_on_request(faster_kernel, make_model):
    model = make_model()
    with accelerate(model, linear_layers=False) as fast:
        assert fast.report().linear_layers == count_patches(fast) == 0
        assert "forward" not in vars(model.lm_head)


def test_the_projections_of_dense_layers_are_among_the_others(faster_kernel, make_model):
    with accelerate(make_model(), layers=[1]) as fast:
        assert fast.report().linear_layers == OTHERS_OF_LLAMA + 3


def test_layers_with_hooks_of_other_libraries_or_computed_weights_are_left_alone(faster_kernel, make_model):
    model = make_model()
    attention = model.model.layers[0].self_attn
    attention.q_proj.forward = attention.q_proj.forward  # as accelerate does it, which may move the weights
    torch.nn.utils.parametrizations.weight_norm(attention.k_proj)
    with torch.no_grad():
        expected = model(IDS).logits
    with sd.accelerate(model, "all_inputs", sd.TopP(1.0)) as fast:
        assert fast.report().linear_layers == OTHERS_OF_LLAMA - 2
        assert relative_error(fast(IDS).logits, expected) < 1e-5


def test_a_module_that_gets_another_weight_uses_it(faster_kernel, make_model):
    model = make_model()
    with accelerate(model) as fast:
        before = fast(IDS).logits
        model.lm_head.weight = nn.Parameter(2 * model.lm_head.weight.detach())
        assert relative_error(fast(IDS).logits, 2 * before) < 1e-5
        model.resize_token_embeddings(70)
        assert fast(IDS).logits.shape[-1] == 70
        with torch.no_grad():
            model.lm_head.weight.zero_()
        assert fast(IDS).logits.abs().max() == 0


@pytest.fixture
def biased_model(make_model):
    """Return a model whose q, k and v have a bias."""

    def make(dtype=torch.float32):
        model = make_model(dtype=dtype, attention_bias=True)
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.q_proj.bias.normal_()
        return model

    return make


def set_parameter(layer, name, value):
    setattr(layer, name, nn.Parameter(value))


def set_data(layer, name, value):
    getattr(layer, name).data = value


def copy_data(layer, name, value):
    with torch.no_grad():
        getattr(layer, name).copy_(value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", [set_parameter, set_data, copy_data])
def test_a_bias_that_is_changed_is_used(faster_kernel, biased_model, change, dtype):
    model = biased_model(dtype)
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.randn(2, 40).to(dtype)
    with accelerate(model), torch.no_grad():
        layer(x)
        change(layer, "bias", torch.randn(40).to(dtype))
        expected = nn.functional.linear(x, layer.weight, layer.bias)
        assert relative_error(layer(x), expected) < 3 * ERROR[dtype]


@pytest.mark.parametrize("change", [set_parameter, set_data])
@pytest.mark.parametrize("part", [lambda weight: weight[:10], lambda weight: weight[:40].t()])
def test_a_weight_that_becomes_another_view_of_its_memory_is_used(faster_kernel, make_model, change, part):
    model = make_model()
    x = torch.randn(2, 40)
    with accelerate(model), torch.no_grad():
        change(model.lm_head, "weight", part(model.lm_head.weight.detach()))
        expected = nn.functional.linear(x, model.lm_head.weight)
        assert relative_error(model.lm_head(x), expected) < 1e-5


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_layer_that_is_pruned_later_uses_its_mask(faster_kernel, biased_model, name):
    model = biased_model()
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.randn(2, 40)
    with accelerate(model), torch.no_grad():
        torch.nn.utils.prune.l1_unstructured(layer, name, amount=0.5)
        layer(x)  # the mask is applied by a hook of the module
        expected = nn.functional.linear(x, layer.weight, layer.bias)
        assert relative_error(layer(x), expected) < 1e-5


def test_results_have_the_dtype_of_autocast(faster_kernel, make_model):
    model = make_model()
    with accelerate(model), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model.lm_head(torch.randn(2, 40)).dtype is torch.bfloat16


def apply_vmap(function, x):
    return torch.func.vmap(function)(x)


def apply_jvp(function, x):
    return torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]


def apply_forward_mode(function, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


def apply_negated(function, x):
    return function(torch._neg_view(x))


def apply_sparse(function, x):
    return function(x.to_sparse())


def apply_trace(function, x):
    return torch.jit.trace(function, (torch.ones_like(x),), check_trace=False)(x)


@pytest.mark.parametrize("apply", [apply_vmap, apply_jvp, apply_forward_mode, apply_negated, apply_sparse, apply_trace])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_tensors_without_plain_memory_are_left_to_pytorch(faster_kernel, make_model, apply):
    model = make_model().requires_grad_(False)
    x = torch.randn(2, 40)
    expected = apply(model.lm_head, x)
    with accelerate(model):
        assert relative_error(apply(model.lm_head, x), expected) < 1e-5


def test_weights_that_are_changed_in_place_are_read(faster_kernel, make_model):
    model = make_model()
    with accelerate(model) as fast:
        before = fast(IDS).logits
        with torch.no_grad():
            model.lm_head.weight.mul_(2)
        assert relative_error(fast(IDS).logits, 2 * before) < 1e-5


def test_gradients_reach_the_weights(faster_kernel, make_model):
    model = make_model().requires_grad_(False)
    model.lm_head.requires_grad_(True)
    with accelerate(model):
        model(IDS).logits.sum().backward()
    assert model.lm_head.weight.grad.abs().max() > 0


def test_a_wrong_width_is_the_error_of_the_layer(faster_kernel, make_model):
    model = make_model()
    with accelerate(model), torch.no_grad(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model.lm_head(torch.ones(1, 1, 20))


def test_compiled_code_leaves_a_layer_to_the_library_if_a_call_costs_more_than_it_saves(
    faster_kernel, make_model, monkeypatch
):
    times = {"kernel": [1e-5, 1e-5, 1e-5, 1e-5], "library": [4e-5, 4e-5, 2e-4, 4e-5]}
    monkeypatch.setattr(timing_table, "measure_linear_layer", lambda *_: times)
    vectors = []
    compute = AllOutputs.__call__
    monkeypatch.setattr(AllOutputs, "__call__", lambda self, x: vectors.append(x.shape[1]) or compute(self, x))
    with accelerate(make_model()) as fast:
        fast(IDS[:, :1])
        assert vectors == [1] * OTHERS_OF_LLAMA
        vectors.clear()
        compiled = torch.compile(fast.dense_model, backend="eager", dynamic=False)
        with torch.no_grad():
            compiled(IDS[:, :1])
            assert vectors == []
            compiled(IDS)
        assert vectors == [3] * OTHERS_OF_LLAMA


def test_compiled_code_calls_the_kernel(faster_kernel, make_model):
    model = make_model()
    with accelerate(model) as fast, torch.no_grad():
        expected = fast(IDS).logits
        operators = []

        def record(graph, _):
            operators.extend(str(node.target) for node in graph.graph.nodes)
            return graph.forward

        torch._dynamo.reset()
        compiled = torch.compile(fast.dense_model, backend=record, fullgraph=True)
        assert relative_error(compiled(IDS).logits, expected) < 1e-6
    torch._dynamo.reset()
    assert operators.count("sparsedial.dense_linear_layer.default") == OTHERS_OF_LLAMA


def test_the_choice_is_saved(faster_kernel, make_model, tmp_path):
    model = make_model()
    with accelerate(model, linear_layers=False) as fast:
        fast.save_pretrained(tmp_path)
    loaded, _ = sd.load_model(str(tmp_path), device="cpu", dtype="float32")
    assert loaded.report().linear_layers == 0
    path = tmp_path / FILE_NAME
    settings = json.loads(path.read_text())
    del settings["linear_layers"]  # as in files of earlier versions
    path.write_text(json.dumps(settings))
    loaded, _ = sd.load_model(str(tmp_path), device="cpu", dtype="float32")
    assert loaded.report().linear_layers == OTHERS_OF_LLAMA


def test_times_are_measured_once_and_read_from_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(timing_table, "MIN_LINEAR_BYTES", 0)
    monkeypatch.setattr(product_timing, "COLD_BYTES", 1)
    monkeypatch.setattr(call_timing, "REPEATS", 1)
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path))
    weight = torch.randn(40, 24)
    assert LimitTable(make_backend()).find_linear_vectors(weight) <= set(range(1, 9))
    path = tmp_path / "acceleration" / "limits.json"
    [(key, entry)] = json.loads(path.read_text()).items()
    assert key.endswith("threads, float32, linear layer of 24 x 40")
    assert {name: len(seconds) for name, seconds in entry.items()} == {"kernel": 4, "library": 4}
    for kernel, expected in (
        ([1, 1, 3, 1], {1, 2, 5, 6, 7, 8}),
        ([3, 3, 1, 3], {3, 4}),
        ([3, 3, 3, 3], set()),
        ([1, 1, 1, 1], set(range(1, 9))),
    ):
        path.write_text(json.dumps({key: {"kernel": kernel, "library": [2] * 4}}))
        assert LimitTable(make_backend()).find_linear_vectors(weight) == expected


def test_small_layers_are_left_to_the_library(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path))
    assert LimitTable(make_backend()).find_linear_vectors(torch.randn(24, 40)) == set()
    assert not list(tmp_path.rglob("*.json"))
