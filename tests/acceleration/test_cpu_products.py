"""The products of the CPU against their definition."""

import numpy as np
import pytest
import torch

from sparsedial.acceleration import cpu_product_records, cpu_products
from sparsedial.acceleration.backend import ProductLimits
from sparsedial.acceleration.cpu_backend import make_backend
from sparsedial.acceleration.cpu_kernels import PARTS
from sparsedial.acceleration.cpu_products import MIN_CONVERTED_VECTORS, KeptInputs, KeptOutputs, make_selector
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules import MaxP, TopK, TopP
from sparsedial.testing import check_kernel
from tests.acceleration.conftest import compute_with_threads

DTYPES = make_backend().dtypes
ERROR = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def make_sparse(rows, width, dtype, share=0.4):
    x = torch.randn(rows, width).to(dtype)
    return torch.where(torch.rand(rows, width) < share, x, 0)


def relative_error(result, expected):
    return ((result.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "vectors", [1, pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(8, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("columns", [1, 16, 53, 1000])
def test_kept_inputs_equals_the_product_of_the_sparse_vectors(dtype, vectors, columns):
    torch.manual_seed(0)
    weight = torch.randn(37, columns).to(dtype)
    bias = torch.randn(columns).to(dtype)
    x = make_sparse(vectors, 37, dtype)
    product = KeptInputs(weight, bias, ProductLimits())
    expected = x.double() @ weight.double() + bias.double()
    assert relative_error(product(x), expected) < ERROR[dtype]
    counts = product.counts()
    assert (counts.calls, counts.dense_calls) == (1, counts.rows_read == 37)
    assert counts.rows_read == (x != 0).any(0).sum().item()
    assert (counts.kept_entries, counts.entries) == ((x != 0).sum().item(), x.numel())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [16, 37, 130])
def test_kept_outputs_computes_the_outputs_of_the_mask_only(dtype, columns):
    torch.manual_seed(0)
    weight = torch.randn(53, columns).to(dtype)
    bias = torch.randn(53).to(dtype)
    x = torch.randn(3, columns).to(dtype)
    kept = torch.rand(3, 53) < 0.3
    product = KeptOutputs(weight, bias, ProductLimits())
    expected = (x.double() @ weight.double().t() + bias.double()) * kept
    assert relative_error(product(x, kept), expected) < ERROR[dtype]
    assert product.counts().rows_read == kept.any(0).sum().item()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_depends_neither_on_the_threads_nor_on_the_number_of_vectors(dtype):
    torch.manual_seed(0)
    weight = torch.randn(300, 1000).to(dtype)  # large enough for several threads
    x = make_sparse(1, 300, dtype)
    product = KeptInputs(weight, None, ProductLimits())
    results = compute_with_threads(lambda: product(x), counts=(1, 2, 3, PARTS + 1, 2 * PARTS + 1))
    results.append(product(torch.cat([x, make_sparse(2, 300, dtype)]))[:1])  # the others need further rows
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1000, 1008, 1024])  # steps of eight vectors may have twice the columns
def test_a_vector_has_the_same_bits_among_eight(dtype, columns):
    torch.manual_seed(0)
    product = KeptInputs(torch.randn(300, columns).to(dtype), None, ProductLimits())
    x = make_sparse(8, 300, dtype)
    for together in compute_with_threads(lambda: product(x), counts=(1, 2, 12)):
        assert torch.equal(together, torch.cat([product(row[None]) for row in x]))


@pytest.mark.parametrize(("rows", "columns"), [(3, 130), (130, 3), (64, 64)])
@pytest.mark.parametrize("vectors", [1, 3, 8])
def test_kernels_stay_inside_of_the_scratch_memory(monkeypatch, rows, columns, vectors):
    guards = []
    scratch = []
    make_scratch = cpu_product_records._scratch_memory.__wrapped__

    def allocate(entries):
        memory = np.full(entries + 64, 12345, np.float32)
        guards.append(memory[entries:])
        return memory[:entries]

    def keep_scratch(width):
        scratch.append(make_scratch(width))  # a record has only addresses
        return scratch[-1]

    monkeypatch.setattr(cpu_product_records, "_allocate_lines", allocate)
    monkeypatch.setattr(cpu_product_records, "_scratch_memory", keep_scratch)
    KeptInputs(torch.randn(rows, columns), None, ProductLimits())(torch.randn(vectors, rows))
    assert len(guards) == 2
    assert all((guard == 12345).all() for guard in guards)


@pytest.mark.parametrize("rows", [1, PARTS - 1, PARTS, PARTS + 1])
def test_a_matrix_with_few_rows_has_empty_parts(rows):
    torch.manual_seed(0)
    weight = torch.randn(rows, 20)
    x = torch.randn(2, rows)
    assert relative_error(KeptInputs(weight, None, ProductLimits())(x), x.double() @ weight.double()) < 1e-6


@pytest.mark.parametrize("vectors", [1, 8])
def test_a_row_longer_than_a_tile_is_computed_in_pieces(monkeypatch, vectors):
    torch.manual_seed(0)
    weight = torch.randn(40, 200)
    x = make_sparse(vectors, 40, torch.float32)
    expected = KeptInputs(weight, None, ProductLimits())(x)
    monkeypatch.setattr(cpu_products, "SUMS_PER_TILE", 48 * vectors)
    product = KeptInputs(weight, None, ProductLimits())
    assert product.tile(1, vectors) < 200
    assert torch.equal(product(x), expected)


def test_rows_with_unused_memory_between_them_are_read():
    torch.manual_seed(0)
    weight = torch.randn(30, 64)[:, :50]
    x = make_sparse(3, 30, torch.float32)
    assert torch.equal(
        KeptInputs(weight, None, ProductLimits())(x), KeptInputs(weight.contiguous(), None, ProductLimits())(x)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_call_that_keeps_more_rows_than_the_limit_is_dense_and_counted_as_dense(dtype):
    torch.manual_seed(0)
    weight = torch.randn(40, 24).to(dtype)
    x = make_sparse(1, 40, dtype, share=0.9)
    product = KeptInputs(weight, None, ProductLimits(largest_share=(0.5,) * 8))
    assert relative_error(product(x), x.double() @ weight.double()) < ERROR[dtype]
    counts = product.counts()
    assert (counts.dense_calls, counts.rows_read) == (1, 40)
    product.reset()
    assert product.counts().calls == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel_vectors", [0, 32])
def test_the_dense_product_of_many_vectors_is_not_counted(dtype, kernel_vectors):
    torch.manual_seed(0)
    weight = torch.randn(40, 24).to(dtype)
    bias = torch.randn(24).to(dtype)
    x = torch.randn(2, 11, 40).to(dtype)
    product = KeptInputs(weight, bias, ProductLimits(kernel_vectors=kernel_vectors))
    assert relative_error(product.multiply_dense(x), x.double() @ weight.double() + bias.double()) < ERROR[dtype]
    assert product.counts().calls == 0


def test_nan_and_infinity_reach_the_result():
    weight = torch.ones(4, 3, dtype=torch.bfloat16)
    product = KeptInputs(weight, None, ProductLimits())
    x = torch.tensor([[1.0, float("nan"), 0.0, 1.0]], dtype=torch.bfloat16)
    assert product(x).isnan().all()
    x[0, 1] = float("inf")
    assert product(x).isinf().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_bfloat16_and_float16_results_are_rounded_to_the_nearest_value(dtype):
    torch.manual_seed(0)
    values = torch.randn(64)
    product = KeptInputs(torch.ones(1, 64).to(dtype), values.to(torch.float32), ProductLimits())
    assert torch.equal(product(torch.zeros(1, 1, dtype=dtype))[0], values.to(dtype))


@pytest.mark.parametrize("rule_class", [TopP, TopK, MaxP])
def test_selectors_keep_exactly_the_entries_of_the_rule(rule_class):
    selectors = {}

    def select(x, rule):
        bound = BoundRule(rule)
        if x.numel() == 0:
            return bound(x)
        key = (rule, x.shape[-1], x.dtype)
        if key not in selectors:
            selectors[key] = make_selector(bound, x.shape[-1], x.dtype)
        vectors = x.reshape(-1, x.shape[-1]).contiguous()
        y = torch.cat([selectors[key](vector[None]) for vector in vectors]).reshape(x.shape)
        return y, bound(x)[1]

    check_kernel(select, rule_class, dtypes=DTYPES, widths=(1, 33, 576))


@pytest.mark.parametrize("multiplies_bfloat16", [False, True])
def test_many_vectors_in_bfloat16_with_and_without_instructions_for_it(monkeypatch, multiplies_bfloat16):
    monkeypatch.setattr(cpu_products, "multiplies_bfloat16", lambda: multiplies_bfloat16)
    monkeypatch.setattr(cpu_products, "CHUNK_ENTRIES", 90 * 50)  # two parts of a different width
    torch.manual_seed(0)
    weight = torch.randn(90, 77).bfloat16()
    bias = torch.randn(77).bfloat16()
    product = KeptInputs(weight, bias, ProductLimits())
    for vectors in (MIN_CONVERTED_VECTORS - 1, MIN_CONVERTED_VECTORS):
        x = torch.randn(2, vectors // 2, 90).bfloat16() if vectors % 2 == 0 else torch.randn(vectors, 90).bfloat16()
        is_converted = not multiplies_bfloat16 and vectors == MIN_CONVERTED_VECTORS
        assert product._is_converted(vectors) == is_converted
        result = product.multiply_with_library(x)
        expected = x.double() @ weight.double() + bias.double()
        assert result.dtype is torch.bfloat16
        assert result.shape == expected.shape
        assert (result.double() - expected).abs().max() / expected.abs().max() < ERROR[torch.bfloat16]
