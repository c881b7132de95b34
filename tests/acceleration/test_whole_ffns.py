"""Which FFNs are computed in one call, and when."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sparsedial as sd
from sparsedial.acceleration import timing_table
from sparsedial.acceleration.backend import GatedFormula
from sparsedial.acceleration.cpu_backend import make_backend
from sparsedial.acceleration.cpu_ffns import CpuFfnKernels
from sparsedial.acceleration.product_timing import ProductTimes
from sparsedial.acceleration.whole_ffns import find_formula
from sparsedial.rules import NOfM
from tests.acceleration.conftest import HIDDEN, WIDTH

RULE = sd.TopP(0.7)
IDS = torch.arange(1, 3)[None]


@pytest.fixture
def steps(monkeypatch):
    """Return a list that grows by one entry with each FFN that is computed in one call."""
    calls = []
    make_step = CpuFfnKernels.make_step

    def make_counting_step(self, *arguments, **options):
        step = make_step(self, *arguments, **options)
        if step is None:
            return None

        def call(x):
            calls.append(x.shape)
            return step(x)

        return call

    monkeypatch.setattr(CpuFfnKernels, "make_step", make_counting_step)
    return calls


def formula_of(model):
    return find_formula(model, sd.find_ffns(model)[0], make_backend())


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("silu", "silu"), ("gelu_pytorch_tanh", "gelu_tanh"), ("gelu", "gelu"), ("relu", "relu"), ("tanh", None)],
)
def test_the_formula_of_a_gated_ffn(make_model, activation, expected):
    formula = formula_of(make_model(hidden_act=activation))
    assert formula == (None if expected is None else GatedFormula(expected, WIDTH, 0, WIDTH))


def test_a_joined_projection_has_its_own_order(make_model):
    assert formula_of(make_model("phi3")) == GatedFormula("silu", WIDTH, up_start=WIDTH, gate_start=0)


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_plain_ffns_have_no_formula(make_model, kind):
    assert formula_of(make_model(kind)) is None


def double_result(mlp):
    forward = type(mlp).forward
    return type("Doubled", (type(mlp),), {"forward": lambda self, x: 2 * forward(self, x)})


def change_input(mlp):
    forward = type(mlp).forward
    return type("Shifted", (type(mlp),), {"forward": lambda self, x: forward(self, x + 1)})


@pytest.mark.parametrize("change", [double_result, change_input])
def test_a_module_that_computes_more_has_no_formula(make_model, steps, change):
    model = make_model()
    for layer in model.model.layers:
        layer.mlp.__class__ = change(layer.mlp)
    assert formula_of(model) is None
    with torch.no_grad(), sd.sparsify(model, "all_inputs", RULE):
        expected = model(IDS).logits
    with sd.accelerate(model, "all_inputs", RULE) as fast:
        assert (fast(IDS).logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not steps


def test_decode_steps_are_computed_in_one_call_and_prefill_is_not(make_model, steps):
    with sd.accelerate(make_model(), "all_inputs", RULE) as fast:
        fast(IDS)
        assert [tuple(shape) for shape in steps] == [(1, 2, HIDDEN)] * 2
        fast(torch.arange(1, 20)[None])
        assert len(steps) == 2
        assert fast.report().calls == 4


@pytest.mark.parametrize("prefill", ["dense", "sparse"])
def test_prefill_agrees_with_the_modules_and_is_counted(make_model, prefill):
    model = make_model()
    ids = torch.arange(1, 40).reshape(3, 13)
    with torch.no_grad():
        if prefill == "dense":
            expected = model(ids).logits
        else:
            with sd.sparsify(model, "all_inputs", RULE):
                expected = model(ids).logits
    with sd.accelerate(model, "all_inputs", RULE, prefill=prefill) as fast:
        result = fast(ids).logits
        assert (result - expected).abs().max() < 1e-5 * expected.abs().max()
        assert torch.equal(fast(ids).logits, result)
        assert fast.report().prefill_calls == 8  # two layers, two vectors, two calls
        seen = []
        handle = model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: seen.append(1))
        assert torch.equal(fast(ids).logits, result)
        handle.remove()
    assert seen == [1]


def test_calls_that_need_the_modules_run_them(make_model, steps):
    model = make_model()
    with sd.accelerate(model, "all_inputs", RULE) as fast:
        expected = fast(IDS).logits
        del steps[:]
        seen = []
        handles = [layer.mlp.down_proj.register_forward_hook(lambda *_: seen.append(1)) for layer in model.model.layers]
        assert torch.equal(fast(IDS).logits, expected)
        assert (len(seen), len(steps)) == (2, 0)
        for handle in handles:
            handle.remove()
        model(IDS).logits.sum().backward()  # with gradients
        assert len(steps) == 0
        with torch.profiler.profile():
            assert torch.equal(fast(IDS).logits, expected)
        del steps[:]
        assert torch.equal(fast(IDS).logits, expected)
        assert len(steps) == 2


def test_a_hook_of_the_activation_is_called(make_model, steps):
    model = make_model()
    with sd.accelerate(model, "all_inputs", RULE) as fast:
        seen = []
        model.model.layers[0].mlp.act_fn.register_forward_hook(lambda *_: seen.append(1))
        fast(IDS)
    assert (len(seen), len(steps)) == (1, 1)


def test_a_hook_of_the_activation_is_called_in_compiled_code(make_model, steps):
    model = make_model()
    with sd.accelerate(model, "all_inputs", RULE) as fast:
        expected = fast(IDS).logits
        handle = model.model.layers[0].mlp.act_fn.register_forward_hook(lambda _module, _args, output: 0 * output)
        hooked = fast(IDS).logits
        del steps[:]
        compiled = torch.compile(fast, backend="eager", fullgraph=True)
        assert torch.equal(compiled(IDS).logits, hooked)
        assert len(steps) == 1
        handle.remove()
        assert torch.equal(compiled(IDS).logits, expected)  # the compiled code sees that the hook is gone
        assert not torch.equal(hooked, expected)


def test_code_that_was_compiled_before_a_hook_of_the_activation_calls_it(make_model):
    model = make_model()
    with sd.accelerate(model, "all_inputs", RULE) as fast:
        compiled = torch.compile(fast, backend="eager", fullgraph=True)
        expected = compiled(IDS).logits
        with model.model.layers[0].mlp.act_fn.register_forward_hook(lambda _module, _args, output: 0 * output):
            hooked = fast(IDS).logits
            assert torch.equal(compiled(IDS).logits, hooked)
        assert not torch.equal(hooked, expected)


def test_a_rule_without_a_compiled_kernel_runs_the_projections(make_model, steps):
    model = make_model()
    rule = NOfM(0.5)
    with torch.no_grad(), sd.sparsify(model, "all_inputs", rule):
        expected = model(IDS).logits
    with sd.accelerate(model, "all_inputs", rule) as fast:
        assert (fast(IDS).logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not steps


def test_a_model_in_training_mode_is_not_called_and_works():
    model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                         num_attention_heads=2, vocab_size=64)).train()  # fmt: skip
    assert formula_of(model) is None
    with sd.accelerate(model, "all_inputs", RULE) as fast:
        assert fast(IDS).logits.isfinite().all()


def test_a_step_in_inference_mode_is_followed_by_one_outside_of_it(make_model, steps):
    with sd.accelerate(make_model(), "all_inputs", RULE) as fast:
        with torch.inference_mode():
            expected = fast(IDS).logits.clone()
        assert torch.equal(fast(IDS).logits, expected)
    assert len(steps) == 4


def test_steps_without_the_rule_are_one_call_where_the_kernel_is_faster_than_the_library(
    make_model, steps, monkeypatch, tmp_path
):
    monkeypatch.setattr(timing_table, "MIN_BYTES", 0)
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path))
    times = ProductTimes(dense=(3.0,) * 4, half=(1.9,) * 4, full=(2.0,) * 4, kernel_vectors=8)
    monkeypatch.setattr(timing_table, "measure_product", lambda *_: times)
    monkeypatch.setattr(timing_table, "measure_rule", lambda *_: [1.0] * 4)
    model = make_model()
    with torch.no_grad():
        expected = model(IDS).logits
    with sd.accelerate(model, "all_inputs", RULE, when_slower="dense") as fast:
        assert (fast(IDS).logits - expected).abs().max() < 1e-5 * expected.abs().max()
        report = fast.report()
    assert (len(steps), report.calls, report.calls_without_rule, report.read_share) == (2, 4, 4, 1)


@pytest.mark.parametrize("change", [lambda u: u.double(), lambda u: u.expand(2, *u.shape[1:]), lambda u: -u])
def test_a_hook_may_change_an_output_of_a_projection(make_model, change):
    model = make_model()
    mlp = model.model.layers[0].mlp
    x = torch.randn(1, 2, HIDDEN)

    def call():
        with torch.no_grad():
            return mlp(x)

    def run_hook(_module, _arguments, output):
        return change(output)

    handle = mlp.up_proj.register_forward_hook(run_hook)
    down_hook = mlp.down_proj.register_forward_pre_hook(lambda _, arguments: (arguments[0].float(),))
    with sd.sparsify(model, "all_inputs", RULE):
        expected = call()
    with sd.accelerate(model, "all_inputs", RULE):
        torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-6)
    handle.remove()
    down_hook.remove()


def test_a_hook_that_adds_a_gradient_gets_it(make_model):
    model = make_model().requires_grad_(False)
    mlp = model.model.layers[0].mlp
    shift = torch.zeros((), requires_grad=True)
    with sd.accelerate(model, "all_inputs", RULE):
        mlp.up_proj.register_forward_hook(lambda _module, _arguments, output: output + shift)
        mlp(torch.randn(1, 2, HIDDEN)).sum().backward()
    assert shift.grad is not None
    assert shift.grad != 0
