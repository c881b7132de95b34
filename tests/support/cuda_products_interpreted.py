"""The products of a GPU against their definition, with small matrices.

`tests/acceleration/test_cuda_products.py` runs this module with TRITON_INTERPRET=1. On a machine with a GPU it can be
run without.
"""

from dataclasses import replace

import torch

from sparsedial.acceleration.backend import ProductLimits
from sparsedial.acceleration.cuda_kernels import IS_INTERPRETED
from sparsedial.acceleration.cuda_products import ONE_VECTOR, SEVERAL_VECTORS, KeptInputs, KeptOutputs

DEVICE = "cpu" if IS_INTERPRETED else "cuda"
ERROR = {torch.bfloat16: 2e-2, torch.float16: 2e-3}
CASES = ((37, 53, 3, 0.4), (1100, 100, 1, 0.4), (40, 300, 2, 1.0), (37, 1, 8, 0.0))
"""Rows, columns, vectors, and the share of entries that are kept."""


def make_sparse(vectors: int, width: int, share: float, dtype: torch.dtype) -> torch.Tensor:
    """Return random vectors in which a share of the entries is not zero."""
    x = torch.where(torch.rand(vectors, width) < share, torch.randn(vectors, width), 0)
    return x.to(dtype).to(DEVICE)


def check_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    """Check the largest error, relative to the largest entry."""
    error = (result.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-9)
    assert error < ERROR[result.dtype], (result.dtype, error)


def check_kept_inputs(case: tuple[int, int, int, float], dtype: torch.dtype, form: str, joins_vectors: bool) -> None:
    """Check the result, the bits and the counts of a product that skips inputs."""
    rows, columns, vectors, share = case
    weight = torch.randn(rows, columns).to(dtype).to(DEVICE)
    bias = torch.randn(columns).to(dtype).to(DEVICE)
    x = make_sparse(vectors, rows, share, dtype)
    tiles = (replace(ONE_VECTOR, form=form), replace(SEVERAL_VECTORS, form=form))
    product = KeptInputs(weight, bias, ProductLimits(joins_vectors=joins_vectors), *tiles)
    result = product(x)
    check_close(result, x.double() @ weight.double() + bias.double())
    counts = product.counts()
    kept = x != 0
    assert (counts.kept_entries, counts.entries) == (kept.sum().item(), x.numel())
    if joins_vectors:
        assert counts.rows_read == kept.any(0).sum().item()
        assert (counts.calls, counts.dense_calls) == (1, counts.rows_read == rows)
    else:
        assert (counts.calls, counts.rows_read) == (vectors, kept.sum().item())
        for index in range(vectors):
            assert torch.equal(product(x[index : index + 1])[0], result[index])
    assert torch.equal(product(x), result)


def check_kept_outputs(rows: int, columns: int, vectors: int, dtype: torch.dtype) -> None:
    """Check the result and the counts of a product that skips outputs."""
    weight = torch.randn(rows, columns).to(dtype).to(DEVICE)
    bias = torch.randn(rows).to(dtype).to(DEVICE)
    x = torch.randn(vectors, columns).to(dtype).to(DEVICE)
    kept = torch.rand(vectors, rows).to(DEVICE) < 0.3
    product = KeptOutputs(weight, bias, ProductLimits())
    result = product(x, kept)
    check_close(result, (x.double() @ weight.double().t() + bias.double()) * kept)
    assert product.counts().rows_read == kept.any(0).sum().item()
    assert torch.equal(product(x, kept), result)


def check_dense_calls() -> None:
    """Check that a call with more vectors than the limits allow is dense and counted as dense."""
    weight = torch.randn(40, 24).bfloat16().to(DEVICE)
    x = make_sparse(4, 40, 0.2, torch.bfloat16)
    product = KeptInputs(weight, None, ProductLimits(largest_share=(1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)))
    check_close(product(x), x.double() @ weight.double())
    counts = product.counts()
    assert (counts.calls, counts.dense_calls, counts.rows_read) == (1, 1, 40)
    assert counts.kept_entries == (x != 0).sum().item()
    product.reset()
    assert product.counts().calls == 0


def main() -> None:
    """Run all checks."""
    torch.manual_seed(0)
    for case in CASES:
        check_kept_inputs(case, torch.float16, "list", joins_vectors=True)
        check_kept_inputs(case, torch.float16, "mask", joins_vectors=True)
    check_kept_inputs(CASES[0], torch.float16, "list", joins_vectors=False)
    check_kept_inputs(CASES[0], torch.bfloat16, "list", joins_vectors=True)
    check_kept_outputs(53, 37, 3, torch.bfloat16)
    check_kept_outputs(1100, 16, 1, torch.float16)
    check_dense_calls()


if __name__ == "__main__":
    main()
