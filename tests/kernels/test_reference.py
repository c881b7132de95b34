"""The reference backend, against results worked out by hand."""

import pytest
import torch

from sparsedial.errors import SpecError
from sparsedial.kernels import reference
from sparsedial.rules import MaxP, Rule, TopK, TopP
from tests.support.custom_rule import CustomRule

VECTOR = [4.0, -3.0, 0.0, 2.0, -2.0, 1.0]  # its L1 norm is 12


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (TopP(0.0), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        (TopP(4 / 12), [4.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        (TopP(0.6), [4.0, -3.0, 0.0, 2.0, 0.0, 0.0]),  # of the two equal magnitudes, the lower index
        (TopP(1.0), VECTOR),
        (TopK(0.5), [4.0, -3.0, 0.0, 2.0, 0.0, 0.0]),
        (MaxP(0.0), VECTOR),
        (MaxP(0.5), [4.0, -3.0, 0.0, 2.0, -2.0, 0.0]),
        (MaxP(1.0), [4.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
    ],
    ids=str,
)
def test_by_hand(rule: Rule, expected: list[float]) -> None:
    y, kept = reference.select(torch.tensor(VECTOR), rule)
    assert y.tolist() == expected
    assert kept == sum(value != 0 for value in expected)


def test_top_k_may_keep_zeros() -> None:
    y, kept = reference.select(torch.tensor([0.0, 1.0, 0.0, 0.0]), TopK(0.5))
    assert y.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert kept == 2


def test_a_vector_that_is_not_finite_stays_as_it_is() -> None:
    y, kept = reference.select(torch.tensor([[1.0, float("inf"), 2.0], [3.0, 2.0, 1.0]]), TopP(0.5))
    assert y.tolist() == [[1.0, float("inf"), 2.0], [3.0, 0.0, 0.0]]
    assert kept.tolist() == [-1, 1]


def test_a_rule_without_a_mask_is_an_error() -> None:
    with pytest.raises(SpecError, match=r"CustomRule.*does not define keep_mask"):
        reference.select(torch.randn(4), CustomRule())
