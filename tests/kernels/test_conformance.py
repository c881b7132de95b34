"""Every backend that runs here, against the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedial.kernels import cpu_backend, reference
from sparsedial.kernels.dispatch import BUILTIN_RULES
from sparsedial.rules import Rule, TopP
from sparsedial.testing import check_kernel
from sparsedial.testing.conformance import DTYPES, check_result


def select_in_one_slot(x: torch.Tensor, rule: Rule) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a rule to one vector after the other in one decode slot. Each search begins where the last one ended."""
    if x.numel() == 0:
        return cpu_backend.select(x, rule)
    slots = cpu_backend.DecodeSlots([x.shape[-1]], rule)
    select = slots.slot_function(0, x.dtype)
    results = []
    kept = []
    for vector in x.reshape(-1, x.shape[-1]).contiguous():
        result = torch.empty_like(vector)
        select(vector.data_ptr(), result.data_ptr())
        slots.commit()
        [[dropped, total, non_finite]] = slots.drain()
        assert total == (1 - non_finite) * vector.numel()
        results.append(result)
        kept.append(-1 if non_finite else total - dropped)
    return torch.stack(results).view(x.shape), torch.tensor(kept, dtype=torch.int32).view(x.shape[:-1])


BACKENDS: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {
    "reference": reference.select,
    "cpu": cpu_backend.select,
    "cpu, in one slot": select_in_one_slot,
}
check = partial(check_result, max_differing_entries=1)
WIDTHS = (1, 2, 31, 33, 576, 4097)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_conformance(backend: str, width: int, dtype: torch.dtype) -> None:
    for rule_class in BUILTIN_RULES:
        check_kernel(BACKENDS[backend], rule_class, widths=[width], dtypes=[dtype], max_differing_entries=1)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60)
@given(
    values=st.lists(st.floats(width=16, allow_nan=True, allow_infinity=True), min_size=1, max_size=80),
    value=st.floats(0, 1),
    rule_class=st.sampled_from(BUILTIN_RULES),
    dtype=st.sampled_from(DTYPES),
)
def test_any_vector(
    backend: str, values: list[float], value: float, rule_class: type[Rule], dtype: torch.dtype
) -> None:
    x = torch.tensor(values, dtype=torch.float64).to(dtype)
    check(BACKENDS[backend], x, rule_class(value))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (2, 0, 4), (5,), (2, 3, 4, 5)])
def test_shapes(backend: str, shape: tuple[int, ...]) -> None:
    y, kept = BACKENDS[backend](torch.randn(shape), TopP(0.5))
    assert y.shape == shape and kept.shape == shape[:-1]
    if shape[-1]:
        assert (kept > 0).all()
    else:
        assert (kept == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend: str) -> None:
    x = torch.randn(40, 6, 20)
    for view in (x.transpose(0, 2), x[::2, :, 1::3], x[:, :1].expand(40, 5, 20), x.mT):
        check(BACKENDS[backend], view, TopP(0.8))
