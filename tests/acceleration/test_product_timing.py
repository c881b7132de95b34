"""The times of products and rules."""

import pytest
import torch

from sparsedial.acceleration import product_timing


@pytest.mark.parametrize("weight", [
    torch.randn(24, 40), torch.randn(24, 48)[:, :40], torch.randn(24, 400)[:, :40], torch.randn(1, 40).expand(24, 40),
])  # fmt: skip
def test_copies_have_the_layout_of_the_matrix_without_much_unused_memory(monkeypatch, weight):
    monkeypatch.setattr(product_timing, "COLD_BYTES", 1 << 14)
    copies = product_timing._copy_weight(weight)
    assert len(copies) > 2
    for copied in copies:
        assert torch.equal(copied, weight)
        assert copied.stride() == (48 if weight.stride(0) == 48 else 40, 1)
