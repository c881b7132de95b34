"""Whole FFNs on the CPU: the same kept sets and bits as single calls of the rules and products."""

import pytest
import torch
from torch.nn import functional

from sparsedial.acceleration.backend import GatedFormula, ProductLimits
from sparsedial.acceleration.cpu_backend import make_backend
from sparsedial.acceleration.cpu_ffns import CpuFfnKernels
from sparsedial.acceleration.cpu_products import KeptInputs, make_selector
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules import MaxP, NOfM, TopK, TopP
from sparsedial.rules.threshold import AboveThreshold
from sparsedial.testing import check_kernel
from tests.acceleration.conftest import compute_with_threads

DTYPES = make_backend().dtypes
KERNELS = CpuFfnKernels()
HIDDEN = 37
WIDTH = 53
ACTIVATIONS = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}
PRECISION = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def make_ffn(dtype, activation="silu", share=1.0, bias=False):
    """Return a formula and random products whose kernels are used up to a share of the rows."""
    torch.manual_seed(0)
    limits = ProductLimits(largest_share=(share,) * 8)
    first = KeptInputs(torch.randn(HIDDEN, 2 * WIDTH).to(dtype), torch.randn(2 * WIDTH).to(dtype), limits)
    second = KeptInputs(torch.randn(WIDTH, HIDDEN + 3).to(dtype), torch.randn(HIDDEN + 3).to(dtype), limits)
    return GatedFormula(activation, WIDTH, up_start=0, gate_start=WIDTH), (first, second)


def run_single_calls(formula, products, rules, x):
    """Compute an FFN by calls of the rules, the products and the activation."""
    first, second = products
    if rules[0] is not None:
        x = make_selector(rules[0], x.shape[-1], x.dtype)(x)
    up, gate = first(x).split(WIDTH, -1)
    intermediate = KERNELS.activate(formula, gate, up)
    if rules[1] is not None:
        intermediate = make_selector(rules[1], WIDTH, x.dtype)(intermediate)
    return second(intermediate)


@pytest.mark.parametrize("rule_class", [TopP, TopK, MaxP])
def test_the_rule_keeps_exactly_the_entries_of_its_definition(rule_class):
    steps = {}

    def make_step(rule, width, dtype):
        products = (
            KeptInputs(torch.zeros(width, 2, dtype=dtype), None, ProductLimits()),
            KeptInputs(torch.zeros(1, 1, dtype=dtype), None, ProductLimits()),
        )
        return KERNELS.make_step(GatedFormula("silu", 1, up_start=0, gate_start=1), products, (BoundRule(rule), None))

    def select(x, rule):
        if x.numel() == 0:
            return BoundRule(rule)(x)
        key = (rule, x.shape[-1], x.dtype)
        if key not in steps:
            steps[key] = make_step(*key)
        rows = []
        for vector in x.reshape(-1, x.shape[-1]).contiguous():
            steps[key](vector[None])
            [call] = steps[key]._calls.values()
            rows.append(call.sparse_x.clone())
        return torch.cat(rows).reshape(x.shape), BoundRule(rule)(x)[1]

    check_kernel(select, rule_class, dtypes=list(DTYPES), widths=(33, 200))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vectors", [1, 3, 8])
@pytest.mark.parametrize("kinds", [(TopP(0.7), TopP(0.5)), (TopK(0.3), None), (None, MaxP(0.1))])
def test_a_step_has_the_bits_and_counts_of_single_calls(dtype, vectors, kinds):
    rules = tuple(None if rule is None else BoundRule(rule) for rule in kinds)
    x = torch.randn(vectors, 1, HIDDEN).to(dtype)
    formula, products = make_ffn(dtype)
    expected = run_single_calls(formula, products, rules, x)
    expected_counts = [product.counts() for product in products]
    formula, products = make_ffn(dtype)
    step = KERNELS.make_step(formula, products, rules)
    assert torch.equal(step(x), expected)
    assert [product.counts() for product in products] == expected_counts
    assert all(torch.equal(step(x), expected) for _ in range(20))


@pytest.mark.parametrize("share", [0.0, 0.6])
@pytest.mark.parametrize("rules", [(TopP(0.5), TopP(1.0)), (TopP(1.0), TopP(0.5)), (None, None)])
def test_a_step_beyond_the_limits_has_the_bits_and_counts_of_single_calls(share, rules):
    bound = tuple(None if rule is None else BoundRule(rule) for rule in rules)
    x = torch.randn(2, HIDDEN)
    formula, products = make_ffn(torch.float32, share=share)
    expected = run_single_calls(formula, products, bound, x)
    expected_counts = [product.counts() for product in products]
    assert max(count.dense_calls for count in expected_counts) == 1
    formula, products = make_ffn(torch.float32, share=share)
    assert torch.equal(KERNELS.make_step(formula, products, bound)(x), expected)
    assert [product.counts() for product in products] == expected_counts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_activations_agree_with_torch_within_the_precision_of_the_dtype(dtype, activation):
    gate = torch.cat([torch.linspace(-110, 110, 4001), torch.randn(2000), torch.randn(2000) * 1e-3]).to(dtype)
    up = torch.randn(len(gate)).to(dtype)
    formula = GatedFormula(activation, len(gate), 0, len(gate))
    result = KERNELS.activate(formula, gate, up).double()
    exact = ACTIVATIONS[activation](gate.double()) * up.double()
    error = (result - exact).abs() - 3 * PRECISION[dtype] * exact.abs()
    assert error.max() < 3 * PRECISION[dtype]
    special = torch.tensor([float("inf"), -float("inf"), float("nan"), 0.0]).to(dtype)
    result = KERNELS.activate(formula, special, torch.ones_like(special))
    assert result[0] == float("inf")
    assert not result[1] > 0
    assert result[2].isnan()
    assert result[3] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fixed_threshold_keeps_the_entries_of_its_definition(dtype):
    x = torch.randn(3, HIDDEN).to(dtype)
    x[1, 4] = float("nan")  # a vector that is not finite is unchanged
    rule = BoundRule(AboveThreshold(float(x[0, 0].abs())))  # one entry equals the threshold
    formula, products = make_ffn(dtype)
    step = KERNELS.make_step(formula, products, (rule, None))
    step(x)
    [call] = step._calls.values()
    assert torch.equal(call.sparse_x.nan_to_num(9), rule(x)[0].nan_to_num(9))
    assert (call.sparse_x[0] == 0).any()
    assert call.sparse_x[0, 0] == 0


def test_a_rule_without_a_compiled_kernel_has_no_step():
    formula, products = make_ffn(torch.float32)
    assert KERNELS.make_step(formula, products, (BoundRule(NOfM(0.5)), None)) is None


def test_the_result_does_not_depend_on_the_number_of_threads():
    torch.manual_seed(0)
    limits = ProductLimits()
    products = (KeptInputs(torch.randn(300, 2000), None, limits), KeptInputs(torch.randn(1000, 300), None, limits))
    step = KERNELS.make_step(GatedFormula("silu", 1000, 0, 1000), products, (BoundRule(TopP(0.7)),) * 2)
    x = torch.randn(1, 300)
    results = compute_with_threads(lambda: step(x))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
