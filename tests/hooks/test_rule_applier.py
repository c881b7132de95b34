"""Apply a rule to the vectors of one counter: the same answers with and without the fast path."""

from __future__ import annotations

import pytest
import torch

from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.forward_coordinator import ForwardCoordinator
from sparsedial.hooks.rule_applier import RuleSet
from sparsedial.kernels import reference
from sparsedial.rules import TopK
from sparsedial.tracing_state import tracing

RULE = TopK(0.25)
SINGLE_TOKEN = {"input_ids": torch.tensor([[5]])}
VECTORS = {
    "expected": torch.randn(1, 1, 8),
    "another shape": torch.randn(8),
    "another dtype": torch.randn(1, 8).bfloat16(),
    "two vectors": torch.randn(1, 2, 8),
    "not contiguous": torch.randn(1, 1, 16)[..., ::2],
    "parameter": torch.nn.Parameter(torch.randn(1, 8)),
}

pytestmark = pytest.mark.usefixtures("fast_decode")


@pytest.fixture
def coordinator() -> ForwardCoordinator:
    """One counter, in a forward of one token."""
    coordinator = ForwardCoordinator(RuleSet((RULE,), (RULE,)), [CounterKey(0, "mlp", "input", None, 8)])
    coordinator.enter_model(0, SINGLE_TOKEN)
    return coordinator


def expected(x: torch.Tensor) -> torch.Tensor:
    return reference.select(x.detach(), RULE)[0]


def counts(coordinator: ForwardCoordinator) -> list[int]:
    coordinator.flush()
    return coordinator.counters.table()[["dropped", "total", "nonfinite"]].iloc[0].tolist()


@pytest.mark.parametrize("name", VECTORS)
def test_every_kind_of_vector_is_sparsified_and_counted(coordinator: ForwardCoordinator, name: str) -> None:
    """Each follows two that prepare the fast path, and comes twice, because a kernel is chosen at the first one."""
    apply = coordinator.make_applier(0)
    x = VECTORS[name]
    for vector in (torch.randn(1, 1, 8), torch.randn(1, 1, 8), x, x):
        assert torch.equal(apply(vector), expected(vector))
    coordinator.leave_model(0, failed=False)
    assert counts(coordinator) == [12 + 2 * x.numel() * 3 // 4, 16 + 2 * x.numel(), 0]


def test_another_width_and_another_device_are_sparsified(coordinator: ForwardCoordinator) -> None:
    apply = coordinator.make_applier(0)
    apply(torch.randn(8))
    apply(torch.randn(8))
    x = torch.randn(1, 4)
    assert torch.equal(apply(x), expected(x))
    assert apply(torch.empty(8, device="meta")).is_meta


def test_a_vector_with_nan_is_counted_as_nonfinite(coordinator: ForwardCoordinator) -> None:
    apply = coordinator.make_applier(0)
    for x in (torch.randn(8), torch.randn(8), torch.full((8,), torch.nan)):
        apply(x)
    coordinator.leave_model(0, failed=False)
    assert counts(coordinator) == [12, 16, 1]


def test_a_failed_forward_is_not_counted(coordinator: ForwardCoordinator) -> None:
    apply = coordinator.make_applier(0)
    for failed in (False, True, False):
        coordinator.enter_model(0, SINGLE_TOKEN)
        for _ in range(3):
            apply(torch.randn(8))
        coordinator.leave_model(0, failed=failed)
    assert counts(coordinator) == [36, 48, 0]


def test_two_modules_that_read_the_same_tensor_share_one_result(coordinator: ForwardCoordinator) -> None:
    apply = coordinator.make_applier(0, readers=2)
    x = torch.randn(8)
    apply(x)
    coordinator.leave_model(0, failed=True)  # before the second module reads x
    coordinator.enter_model(0, SINGLE_TOKEN)
    x.neg_()
    y = apply(x)
    assert torch.equal(y, expected(x))
    assert apply(x) is y
    assert apply(x) is not y
    coordinator.leave_model(0, failed=False)
    assert counts(coordinator) == [12, 16, 0]


def test_a_wrapper_sees_each_call_and_the_outermost_one_comes_first(coordinator: ForwardCoordinator) -> None:
    apply = coordinator.make_applier(0)
    apply(torch.randn(8))  # prepares the fast path, which must notice the wrappers
    calls = []

    def make_wrapper(name):
        def wrapper(counter, x, context, inner):
            calls.append((name, counter, context.phase))
            return inner(counter, x, context)

        return wrapper

    coordinator.wrap(make_wrapper("inner"))
    coordinator.wrap(make_wrapper("outer"))
    x = torch.randn(8)
    assert torch.equal(apply(x), expected(x))
    assert calls == [("outer", 0, "prefill"), ("inner", 0, "prefill")]


def test_a_trace_sees_dense_activations() -> None:
    coordinator = ForwardCoordinator(RuleSet((RULE,), (RULE,)), [CounterKey(0, "mlp", "input", None, 8)])
    x = torch.randn(8)
    with tracing():
        assert coordinator.make_applier(0)(x) is x
    coordinator.flush()
    assert coordinator.counters.table().empty
