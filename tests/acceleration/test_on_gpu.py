"""Accelerated models on a GPU. Machines without one skip these tests."""

import gc

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sparsedial as sd
from sparsedial.acceleration import timing_table
from sparsedial.acceleration.backend import ProductLimits
from sparsedial.acceleration.cuda_products import KeptInputs, KeptOutputs, make_selector
from sparsedial.acceleration.kernel_execution import run_on_kernels
from sparsedial.cache_arguments import returned_cache
from sparsedial.errors import ModelError
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules import MaxP, NOfM, TopK, TopP
from sparsedial.testing import check_kernel
from tests.support.cache_name import CACHE

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("default"),
]

DTYPES = [torch.bfloat16, torch.float16]
ERROR = {torch.bfloat16: 2e-2, torch.float16: 2e-3}
TOLERANCE = {torch.bfloat16: 1e-1, torch.float16: 2e-2}
PROMPT = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Measure the limits in each test, so that no test depends on the cache of the user."""
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path))


def relative_difference(a, b):
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def make_wide_llama(dtype=torch.bfloat16, layers=2):
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=1024, intermediate_size=2816, num_hidden_layers=layers, num_attention_heads=8,
                         num_key_value_heads=4, vocab_size=512, max_position_embeddings=512)  # fmt: skip
    with torch.device("cuda"):
        return LlamaForCausalLM(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("shape", [(37, 1), (1000, 53), (4096, 1000), (576, 3072)])
def test_kept_inputs_equals_the_product_of_the_sparse_vectors(dtype, vectors, shape):
    torch.manual_seed(0)
    rows, columns = shape
    weight = torch.randn(rows, columns, device="cuda").to(dtype)
    bias = torch.randn(columns, device="cuda").to(dtype)
    for share in (0.0, 0.3, 1.0):
        x = torch.where(torch.rand(vectors, rows, device="cuda") < share, torch.randn(vectors, rows, device="cuda"), 0)
        x = x.to(dtype)
        product = KeptInputs(weight, bias, ProductLimits())
        expected = x.double() @ weight.double() + bias.double()
        result = product(x)
        assert relative_difference(result, expected) < ERROR[dtype]
        assert all(torch.equal(product(x), result) for _ in range(50))
        counts = product.counts()
        assert counts.rows_read == 51 * (x != 0).any(0).sum().item()
        assert (counts.calls, counts.dense_calls) == (51, 51 * (counts.rows_read == 51 * rows))


@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_outputs_computes_the_outputs_of_the_mask_only(dtype):
    torch.manual_seed(0)
    for rows, columns, vectors in ((53, 37, 3), (4096, 1000, 1), (1100, 4096, 8)):
        weight = torch.randn(rows, columns, device="cuda").to(dtype)
        x = torch.randn(vectors, columns, device="cuda").to(dtype)
        kept = torch.rand(vectors, rows, device="cuda") < 0.3
        product = KeptOutputs(weight, None, ProductLimits())
        result = product(x, kept)
        assert relative_difference(result, (x.double() @ weight.double().t()) * kept) < ERROR[dtype]
        assert all(torch.equal(product(x, kept), result) for _ in range(20))


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_rounded_to_the_nearest_value(dtype):
    values = torch.randn(64, device="cuda")
    product = KeptInputs(torch.ones(1, 64, device="cuda", dtype=dtype), values, ProductLimits())
    assert torch.equal(product(torch.zeros(1, 1, device="cuda", dtype=dtype))[0], values.to(dtype))


def test_nan_and_infinity_reach_the_result():
    weight = torch.ones(4, 3, device="cuda").bfloat16()
    product = KeptInputs(weight, None, ProductLimits())
    x = torch.tensor([[1.0, float("nan"), 0.0, 1.0]], device="cuda").bfloat16()
    assert product(x).isnan().all()
    x[0, 1] = float("inf")
    assert product(x).isinf().all()


def test_vectors_that_do_not_share_rows_have_the_bits_of_one_vector():
    torch.manual_seed(0)
    weight = torch.randn(1024, 3000, device="cuda").bfloat16()
    x = torch.where(torch.rand(8, 1024, device="cuda") < 0.4, torch.randn(8, 1024, device="cuda"), 0).bfloat16()
    product = KeptInputs(weight, None, ProductLimits(joins_vectors=False))
    together = product(x)
    assert all(torch.equal(product(x[index : index + 1])[0], together[index]) for index in range(8))


@pytest.mark.parametrize("rule_class", [TopP, TopK, MaxP])
def test_selectors_keep_exactly_the_entries_of_the_rule(rule_class):
    def select(x, rule):
        bound = BoundRule(rule)
        if not x.numel():
            return bound(x)
        vectors = x.reshape(-1, x.shape[-1]).contiguous().cuda()
        y = torch.cat([make_selector(bound, x.shape[-1], x.dtype)(vector[None]) for vector in vectors])
        return y.reshape(x.shape).cpu(), bound(x)[1]

    check_kernel(select, rule_class, dtypes=DTYPES, widths=(33, 576))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3", "opt"])
@pytest.mark.parametrize("site", ["input", "gate", "up", "all_inputs"])
def test_logits_agree_with_sparsify(make_model, kind, site, dtype):
    if site == "gate" and kind in ("gpt2", "opt"):
        pytest.skip("plain FFNs have no gate")
    model = make_model(kind, dtype).cuda()
    for rule in (TopP(0.8), TopK(0.5)):
        for tokens in (1, 3):
            ids = torch.arange(1, tokens + 1, device="cuda")[None]
            with torch.no_grad(), sd.sparsify(model, site, rule):
                expected = model(ids).logits
            with sd.accelerate(model, site, rule) as fast:
                logits = fast(ids).logits
                assert relative_difference(logits, expected) < TOLERANCE[dtype]
                assert all(torch.equal(fast(ids).logits, logits) for _ in range(10))
                assert fast.report().read_share < 1


def test_the_sparsity_at_decode_is_that_of_sparsify():
    model = make_wide_llama()
    ids = torch.arange(1, 4, device="cuda")[None]
    with torch.no_grad(), sd.sparsify(model, "input", TopP(0.8)) as sparsifier:
        model(ids)
    with sd.accelerate(model, "input", TopP(0.8)) as fast:
        fast(ids)
        table = fast.report().table
    first = table[(table.layer == 0) & (table.vector == "input")].sparsity.item()
    assert first == sparsifier.stats().sparsity.tolist()[0]  # later layers see other roundings


def test_static_thresholds_run_on_the_kernels():
    model = make_wide_llama()
    calibration = sd.calibrate(model, rule=sd.Threshold(0.5, tokens=96), site="all_inputs")
    ids = torch.arange(1, 3, device="cuda")[None]
    with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.Threshold(0.5, tokens=96), calibration=calibration):
        expected = model(ids).logits
    with sd.accelerate(model, "all_inputs", sd.Threshold(0.5, tokens=96), calibration=calibration) as fast:
        assert relative_difference(fast(ids).logits, expected) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("site", ["up", "all_inputs"])
def test_restore_gives_the_same_bits_in_the_same_layout(site):
    model = make_wide_llama()
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in model.state_dict().items()}
    with sd.accelerate(model, site, TopP(0.7)) as fast:
        fast.generate(torch.arange(1, 5, device="cuda")[None], **PROMPT)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.stride() == before[name][1]


def test_memory_is_at_most_two_percent_more():
    model = make_wide_llama(layers=4)
    sd.accelerate(model, "all_inputs", TopP(0.7)).restore()  # what later calls keep, such as libraries
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with sd.accelerate(model, "all_inputs", TopP(0.7)) as fast:
        fast(torch.arange(1, 2, device="cuda")[None])
        gc.collect()
        assert torch.cuda.memory_allocated() <= 1.02 * before


def test_a_decode_step_can_be_captured_in_a_cuda_graph():
    model = make_wide_llama()
    x = torch.randn(1, 1, 1024, device="cuda").bfloat16()
    with torch.no_grad(), sd.accelerate(model, "all_inputs", TopP(0.7)) as fast:
        mlp = model.model.layers[0].mlp
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            expected = mlp(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            result = mlp(x)
        fast.reset()
        for seed in range(3):
            graph.replay()
            assert torch.equal(result, expected)
            x.copy_(torch.randn(1, 1, 1024, generator=torch.Generator().manual_seed(seed)))
            expected = mlp(x)
        assert fast.report().calls == 12  # two products, captured and eager


def test_a_static_cache_with_compiled_steps_gives_tokens_that_eager_steps_find_most_probable():
    model = make_wide_llama()
    ids = torch.arange(1, 20, device="cuda")[None]
    with torch.no_grad(), sd.accelerate(model, "all_inputs", TopP(0.8)) as fast:
        for _ in range(2):
            fast.reset()
            result = fast.generate(ids, cache_implementation="static", **PROMPT)
            assert fast.report().calls >= 2 * 2 * (PROMPT["max_new_tokens"] - 1)
            output = fast(ids, use_cache=True)
            for token in result[0, ids.shape[1] :]:
                logits = output.logits[0, -1].float()
                # Compiled code rounds the norms differently, so the best of two close tokens can be the other one.
                assert logits.max() - logits[token] < TOLERANCE[torch.bfloat16] * logits.abs().max()
                output = fast(token[None, None], use_cache=True, **{CACHE: returned_cache(output)})
    torch._dynamo.reset()


def test_steps_that_generate_compiles_contain_compiled_decoding():
    model = make_wide_llama()
    ids = torch.arange(1, 13, device="cuda")[None]
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    options |= {"pad_token_id": 0, "cache_implementation": "static"}
    with sd.accelerate(model, "all_inputs", TopP(0.8)) as fast:
        expected = fast.generate(ids, **options)
        torch._dynamo.reset()
        fast.compile_decoding()
        assert torch.equal(fast.generate(ids, **options), expected)
    torch._dynamo.reset()


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_model_gives_equal_bits_for_equal_inputs(mode):
    model = make_wide_llama()
    ids = torch.arange(1, 3, device="cuda")[None]
    with torch.no_grad(), sd.accelerate(model, "all_inputs", TopP(0.8)) as fast:
        expected = fast(ids).logits
        compiled = torch.compile(fast.dense_model, mode=mode, fullgraph=True)
        results = [compiled(ids, use_cache=False).logits.clone() for _ in range(5)]
        assert relative_difference(results[0], expected) < TOLERANCE[torch.bfloat16]
        assert all(torch.equal(result, results[0]) for result in results)
    torch._dynamo.reset()


def test_each_token_of_a_measurement_has_the_bits_of_its_decode_step(monkeypatch):
    monkeypatch.setattr(timing_table, "MIN_BYTES", 1 << 40)  # no dense products, whose sums have another order
    model = make_wide_llama(layers=1)
    mlp = model.model.layers[0].mlp
    x = torch.randn(2, 13, 1024, device="cuda").bfloat16()
    ffns = sd.find_ffns(model)
    with torch.no_grad():
        with run_on_kernels(model, ffns), sd.sparsify(model, "all_inputs", TopP(0.7), ffns=ffns):
            together = mlp(x)
        with sd.accelerate(model, "all_inputs", TopP(0.7)):
            one_by_one = torch.stack([mlp(token[None]) for token in x.flatten(0, 1)])
    assert torch.equal(together.flatten(0, 1), one_by_one.flatten(0, 1))


def test_dense_prefill_equals_the_dense_model():
    model = make_wide_llama()
    ids = torch.arange(1, 129, device="cuda")[None]
    with torch.no_grad():
        expected = model(ids).logits
    with sd.accelerate(model, "all_inputs", TopP(0.5)) as fast:
        assert relative_difference(fast(ids).logits, expected) < TOLERANCE[torch.bfloat16]
        assert fast.report().prefill_calls == 4


@pytest.fixture
def slow_rule(monkeypatch):
    monkeypatch.setattr(timing_table, "measure_rule", lambda *_: [1.0] * 4)  # a rule that takes a second


def capture(call, graph=None):
    """Capture a call in a CUDA graph, which has to be reset if it has captured another one."""
    torch.cuda.synchronize()
    graph = graph or torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # PyTorch's default for captures belongs to the device of the first capture
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph


def replay(graph, times):
    for _ in range(times):
        graph.replay()


def calls_by_vector(fast):
    """Return the calls of each layer's projections of x and of i, after a check that none of them had a rule."""
    report = fast.report()
    assert report.calls == report.dense_calls == report.calls_without_rule
    return report.table.calls.tolist()


def make_inputs(*counts, device="cuda"):
    return [torch.randn(1, vectors, 1024, device=device).bfloat16() for vectors in counts]


def test_steps_without_the_rule_are_counted_in_cuda_graphs(slow_rule):
    model = make_wide_llama()
    mlp = model.model.layers[0].mlp
    x = torch.randn(1, 2, 1024, device="cuda").bfloat16()
    with torch.no_grad():
        expected = mlp(x)
        with sd.accelerate(model, "all_inputs", TopP(0.5), when_slower="dense") as fast:
            assert relative_difference(mlp(x), expected) < ERROR[torch.bfloat16]
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = mlp(x)
            fast.reset()
            replay(graph, 3)
            report = fast.report()
    assert relative_difference(result, expected) < ERROR[torch.bfloat16]
    assert (report.calls, report.dense_calls, report.calls_without_rule) == (6, 6, 6)


def test_each_graph_counts_the_steps_that_it_contains(slow_rule):
    model = make_wide_llama()
    first, second = (layer.mlp for layer in model.model.layers)
    two, eight = make_inputs(2, 8)
    with torch.no_grad(), sd.accelerate(model, "all_inputs", TopP(0.5), when_slower="dense") as fast:
        for x in (two, eight):
            first(x), second(x)
        fast.reset()
        both = capture(lambda: (first(two), second(two)))
        others = capture(lambda: (second(eight), second(two), first.gate_proj(eight), first.up_proj(eight)))
        assert calls_by_vector(fast) == [0, 0, 0, 0]
        replay(both, 3)
        replay(others, 2)
        first(two)
        assert calls_by_vector(fast) == [3 + 2 + 1, 3 + 1, 3 + 4, 3 + 4]
        fast.reset()
        assert calls_by_vector(fast) == [0, 0, 0, 0]
        replay(both, 1)
        replay(others, 1)
        assert calls_by_vector(fast) == [2, 1, 3, 3]
        both.reset()
        capture(lambda: second(two), both)
        replay(both, 5)
        replay(others, 1)
        assert calls_by_vector(fast) == [3, 1, 3 + 5 + 2, 3 + 5 + 2]


def test_a_graph_counts_steps_on_several_streams(slow_rule):
    model = make_wide_llama()
    first, second = (layer.mlp for layer in model.model.layers)
    (x,) = make_inputs(2)
    side = torch.cuda.Stream()

    def call():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            first(x)
        second(x)
        torch.cuda.current_stream().wait_stream(side)

    with torch.no_grad(), sd.accelerate(model, "all_inputs", TopP(0.5), when_slower="dense") as fast:
        call()
        fast.reset()
        graph = capture(call)
        replay(graph, 4)
        torch.cuda.synchronize()
        assert calls_by_vector(fast) == [4, 4, 4, 4]


@pytest.mark.parametrize("slow_rows", [1024, 2816])
def test_only_the_projections_without_the_rule_are_counted_as_such(monkeypatch, slow_rows):
    times = timing_table.ProductTimes(dense=(3.0,) * 4, half=(1.0,) * 4, full=(2.0,) * 4, kernel_vectors=8)
    monkeypatch.setattr(timing_table, "measure_product", lambda *_: times)
    seconds = {1024: 0.1, 2816: 0.1} | {slow_rows: 10.0}
    monkeypatch.setattr(timing_table, "measure_rule", lambda weight, *_: [seconds[weight.shape[0]]] * 4)
    model = make_wide_llama()
    mlp = model.model.layers[1].mlp
    (x,) = make_inputs(1)
    with torch.no_grad(), sd.accelerate(model, "all_inputs", TopP(0.5), layers=[1], when_slower="dense") as fast:
        mlp(x)
        graph = capture(lambda: (mlp(x), mlp(x)))
        fast.reset()
        replay(graph, 3)
        mlp(x)
        report = fast.report()
    assert report.table.calls.tolist() == [7, 7]
    assert (report.calls_without_rule, report.dense_calls) == (7, 7)


def test_a_compiled_model_with_cuda_graphs_counts_its_steps(slow_rule):
    model = make_wide_llama()
    inputs = [torch.arange(1, 3, device="cuda")[None], torch.arange(1, 5, device="cuda")[None]]
    with torch.no_grad(), sd.accelerate(model, "all_inputs", TopP(0.5), when_slower="dense") as fast:
        compiled = torch.compile(fast.dense_model, mode="reduce-overhead", fullgraph=True, dynamic=False)
        for ids in inputs:
            fast.reset()
            for step in range(1, 6):
                compiled(ids, use_cache=False)
                assert calls_by_vector(fast) == [step] * 4
        fast.reset()
        for _ in range(3):
            for ids in inputs:
                compiled(ids, use_cache=False)
        assert calls_by_vector(fast) == [6] * 4
    torch._dynamo.reset()


def test_a_graph_has_one_kernel_that_counts(slow_rule):
    runtime = pytest.importorskip("cuda.bindings.runtime")

    def count_nodes(call):
        graph = capture(call, torch.cuda.CUDAGraph(keep_graph=True))
        error, _, nodes = runtime.cudaGraphGetNodes(runtime.cudaGraph_t(init_value=graph.raw_cuda_graph()))
        assert error == runtime.cudaError_t.cudaSuccess
        return nodes

    model = make_wide_llama()
    first, second = (layer.mlp for layer in model.model.layers)
    (x,) = make_inputs(2)
    with torch.no_grad(), sd.accelerate(model, "all_inputs", TopP(0.5), when_slower="dense"):
        first(x), second(x)
        one = count_nodes(lambda: first(x))
        two = count_nodes(lambda: (first(x), second(x)))
    assert 2 * one - two == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_steps_are_counted_on_each_device(slow_rule):
    model = make_wide_llama(layers=1)
    (x,) = make_inputs(2)
    with torch.no_grad(), sd.accelerate(model, "all_inputs", TopP(0.5), when_slower="dense") as fast:
        mlp = model.model.layers[0].mlp
        mlp(x)
        with torch.cuda.device(1):
            other = make_wide_llama(layers=1)
            (other_x,) = make_inputs(2, device="cuda:1")
            other_mlp = other.model.layers[0].mlp
            other_fast = sd.accelerate(other, "all_inputs", TopP(0.5), when_slower="dense")
            other_mlp(other_x)

            def call():
                other_mlp(other_x)
                with torch.cuda.device(0):
                    other_mlp(other_x)  # the current device is not the one that captures

            other_fast.reset()
            other_graph = capture(call)
            replay(other_graph, 3)
            torch.cuda.synchronize()
        fast.reset()
        graph = capture(lambda: mlp(x))
        replay(graph, 2)
        assert calls_by_vector(fast) == [2, 2]
        assert calls_by_vector(other_fast) == [6, 6]
        other_fast.restore()


def test_a_rule_without_a_kernel_can_be_timed():
    with sd.accelerate(make_wide_llama(layers=1), "input", NOfM(0.5), when_slower="dense") as fast:
        assert fast(torch.arange(1, 3, device="cuda")[None]).logits.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_unsupported_dtype_raises_an_error_that_says_what_is_supported(make_model, dtype):
    with pytest.raises(ModelError, match="expected one dtype of bfloat16, float16"):
        sd.accelerate(make_model(dtype=dtype).cuda(), "all_inputs", TopP(0.5))
