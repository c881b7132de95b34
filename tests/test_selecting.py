"""The way of a vector that comes alone, and of those that do not fit it."""

from __future__ import annotations

import pytest
import torch

from sparsedial.kernels import cpu, reference
from sparsedial.rules import TopK
from sparsedial.selecting import Selecting
from sparsedial.stats import Counter

VECTORS = {
    "as it is": torch.randn(1, 1, 8),
    "of another shape": torch.randn(8),
    "of another dtype": torch.randn(1, 8).bfloat16(),
    "two": torch.randn(1, 2, 8),
    "not contiguous": torch.randn(1, 1, 16)[..., ::2],
    "a parameter": torch.nn.Parameter(torch.randn(1, 8)),
}


@pytest.fixture
def alone() -> Selecting:
    selecting = Selecting(TopK(0.25), [Counter(0, "mlp", "input", None, 8)])
    selecting.forwards.plain = selecting.forwards.lone = True
    return selecting


@pytest.mark.parametrize("name", VECTORS)
def test_what_fits_and_what_does_not(alone: Selecting, name: str) -> None:
    """Each after one that fitted, and twice, because what comes first is looked at more closely."""
    select, x = alone.at(0), VECTORS[name]
    for v in (torch.randn(1, 1, 8), torch.randn(1, 1, 8), x, x):
        assert torch.equal(select(v), reference.select(v.detach(), "top_k", 0.25)[0])
    alone._ended(False)
    alone.settle()
    counted = alone.counters.table()[["dropped", "total", "nonfinite"]].iloc[0].tolist()
    assert counted == [12 + 2 * x.numel() * 3 // 4, 16 + 2 * x.numel(), 0]


def test_another_width_and_device(alone: Selecting) -> None:
    select, x = alone.at(0), torch.randn(1, 4)
    select(torch.randn(8)), select(torch.randn(8))
    assert torch.equal(select(x), reference.select(x, "top_k", 0.25)[0])
    assert select(torch.empty(8, device="meta")).is_meta


def test_the_second_vector_takes_the_short_way(alone: Selecting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above test nothing."""
    select = alone.at(0)
    select(torch.randn(8))
    monkeypatch.setattr(cpu, "select", _raise)
    monkeypatch.setattr(alone, "_select", _raise)
    assert (select(torch.randn(8)) != 0).sum() == 2


def test_one_of_two_readers_asks(alone: Selecting) -> None:
    select, x = alone.at(0, shared=True), torch.randn(8)
    select(x)
    alone._ended(True)  # before the other one did
    x.neg_()
    y = select(x)
    assert torch.equal(y, reference.select(x, "top_k", 0.25)[0])
    assert select(x) is y and select(x) is not y


def _raise(*_: object) -> None:
    pytest.fail("the long way")
