"""Counters of dropped entries."""

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.counters import SparsityCounters
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.pending_counts import (
    MAX_PENDING_FORWARDS,
    SMALL_FORWARD_VECTORS,
    AssignedCall,
    CallGroup,
    PendingCalls,
    RuleCall,
)
from sparsedial.kernels import reference
from sparsedial.rules import TopP

KEYS = [CounterKey(0, "layers.0.mlp", "input", None, 10), CounterKey(1, "layers.1.mlp", "input", None, 20)]


def record(counters, counter, kept, token_indices=None):
    counters.record(RuleCall((counter,), kept, kept.shape, token_indices))


def end_forward(counters, context):
    """End a forward in which all calls were made in one context."""
    if counters.pending.current:
        counters.add_calls([CallGroup(context, counters.pending.current)])
        counters.pending.current = []


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def test_counts_are_sums_per_counter_phase_and_step():
    counters = SparsityCounters(KEYS, [TopP(0.5)] * 2)
    for _ in range(2):
        record(counters, 0, int32(4, -1, 10))
        record(counters, 1, int32(5, 0, 20))
        end_forward(counters, ForwardContext("prefill", step=3))
    record(counters, 0, int32(1))
    end_forward(counters, ForwardContext("generation"))
    table = counters.table()
    columns = ["layer", "phase", "dropped", "total", "tokens", "nonfinite"]
    assert table[columns].values.tolist() == [
        [0, "prefill", 12, 40, 4, 2],
        [1, "prefill", 70, 120, 6, 0],
        [0, "generation", 9, 10, 1, 0],
    ]
    assert table["step"].tolist()[:2] == [3, 3]
    assert table["sparsity"].tolist() == [0.3, 70 / 120, 0.9]
    assert table["expert"].isna().all()
    assert table["weight"].isna().all()


def test_only_vectors_of_real_tokens_are_counted():
    counters = SparsityCounters(
        [*KEYS, CounterKey(2, "layers.2.moe.0", "input", 0, 20, "layers.2.moe")], [TopP(0.5)] * 3
    )
    record(counters, 0, int32(4, -1, 10))
    record(counters, 2, int32(5, 0), token_indices=torch.tensor([2, 0]))
    end_forward(counters, ForwardContext(real_tokens=torch.tensor([[True, False, False]])))
    assert counters.table()[["dropped", "total", "nonfinite"]].values.tolist() == [[6, 10, 0], [20, 20, 0]]


def test_a_failed_forward_and_no_forward_leave_the_table_empty():
    counters = SparsityCounters(KEYS, [TopP(0.5)] * 2)
    assert counters.table().empty
    record(counters, 0, int32(4))
    counters.discard_pending()
    end_forward(counters, ForwardContext())
    assert counters.table().empty


def test_totals_of_the_kernel_are_added():
    counters = SparsityCounters(KEYS, [TopP(0.5)] * 2)
    counters.add_totals("prefill", None, np.array([[3, 10, 1], [0, 0, 0]]))
    record(counters, 0, int32(10))
    end_forward(counters, ForwardContext())
    assert counters.table()[["layer", "dropped", "total", "nonfinite"]].values.tolist() == [[0, 3, 20, 1]]


def call_of(vectors):
    return AssignedCall("prefill", None, None, RuleCall((0,), torch.zeros(vectors), torch.Size([vectors])))


def test_small_forwards_wait_and_a_large_one_does_not():
    pending = PendingCalls()
    assert not pending.queue([])
    for _ in range(MAX_PENDING_FORWARDS - 1):
        assert not pending.queue([call_of(SMALL_FORWARD_VECTORS)])
    assert pending.queue([call_of(1)])
    assert len(pending.pop_all()) == MAX_PENDING_FORWARDS
    assert pending.queue([call_of(SMALL_FORWARD_VECTORS + 1)])


def test_calls_belong_to_the_context_in_which_they_were_made():
    pending = PendingCalls()
    outer, inner = ForwardContext("prefill"), ForwardContext("generation")
    for context, counter in ((outer, 0), (inner, 1), (outer, 2)):
        pending.start_context(context)
        pending.current.append(RuleCall((counter,), torch.zeros(1), torch.Size([1])))
    groups = pending.take_forward()
    assert [(group.context, [call.counters for call in group.calls]) for group in groups] == [
        (outer, [(0,), (2,)]),
        (inner, [(1,)]),
    ]
    assert pending.take_forward() == []


def test_tokens_of_one_forward_may_be_in_two_phases():
    counters = SparsityCounters(KEYS, [TopP(0.5)] * 2)
    record(counters, 0, int32(4, 5, 6, 7))
    real = torch.tensor([[True, True, True, False]])
    end_forward(counters, ForwardContext(real_tokens=real, generation_tokens=torch.tensor([[False, True, True, True]])))
    record(counters, 0, int32(4, 5))
    end_forward(counters, ForwardContext(generation_tokens=torch.tensor(True)))
    table = counters.table().set_index("phase")
    assert table["tokens"].to_dict() == {"generation": 4, "prefill": 1}
    assert table["dropped"].to_dict() == {"generation": 5 + 4 + 6 + 5, "prefill": 6}


def test_counts_agree_with_the_definition(llama, tokens):
    vectors = {}
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda m, a, n=n: vectors.__setitem__(n, a[0]))
        for n, layer in enumerate(llama.model.layers)
    ]
    with torch.no_grad(), sd.sparsify(llama, "intermediate", sd.TopP(0.7)) as sparsifier:
        llama(tokens)
    for handle in handles:
        handle.remove()
    table = sparsifier.stats()
    assert list(table.columns) == [
        "layer", "module", "vector", "expert", "phase", "step", "dropped", "total", "sparsity", "tokens", "weight"
    ]  # fmt: skip
    for row in table.itertuples():
        kept = reference.select(vectors[row.layer], TopP(0.7))[1]
        assert (row.dropped, row.total) == (tokens.numel() * 80 - int(kept.sum()), tokens.numel() * 80)
        assert row.sparsity == row.dropped / row.total
    assert sparsifier.sparsity() == table["dropped"].sum() / table["total"].sum()


@pytest.mark.usefixtures("fast_decode")
@pytest.mark.parametrize("padding", [0, 2])
def test_many_small_forwards_are_counted_like_single_ones(llama, tokens, padding):
    """The counts of small forwards share memory and are added up together."""
    steps = [tokens.roll(i, 1)[:, :5] for i in range(34)]  # more than are added up together
    mask = torch.ones_like(steps[0])
    mask[0, :padding] = 0
    with torch.inference_mode(), sd.sparsify(llama, "all_inputs", sd.TopP(0.8)) as together:
        for step in steps:
            llama(step, attention_mask=mask)
    columns = ["dropped", "total", "tokens"]
    expected = 0
    for step in steps:
        with torch.inference_mode(), sd.sparsify(llama, "all_inputs", sd.TopP(0.8)) as sparsifier:
            llama(step, attention_mask=mask)
        expected = expected + sparsifier.stats()[columns]
    assert together.stats()[columns].equals(expected)
