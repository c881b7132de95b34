"""The CPU backend: rounding, threads, memory for the counts, and decode slots."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from numba.core.dispatcher import Dispatcher

from sparsedial.errors import SpecError
from sparsedial.kernels import cpu_backend, cpu_numba, reference
from sparsedial.rules import TopK, TopP
from sparsedial.testing.conformance import DTYPES, Tally, check_result
from tests.support.custom_rule import CustomRule

check = partial(check_result, max_differing_entries=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_boundary_entry_rarely_differs(dtype: torch.dtype) -> None:
    tally = Tally()
    for _ in range(20):
        p = float(torch.rand(()))
        check(cpu_backend.select, torch.randn(64, 700).to(dtype), TopP(p), tally)
    assert tally.vectors == 1280
    assert tally.differing <= 1  # float64 sums in another order: about one in 10^9


@pytest.mark.parametrize("p", [0.1, 0.5, 0.7])
def test_exact_sums_leave_nothing_to_rounding(p: float) -> None:
    tally = Tally()
    for width in (10, 100, 1000):  # of equal entries, p * width may fall exactly on a boundary
        check(cpu_backend.select, torch.ones(4, width), TopP(p), tally)
        check(cpu_backend.select, torch.randint(-8, 9, (8, width)).float(), TopP(p), tally)
    assert tally.differing == 0


def test_slots_count_the_rounds_that_are_committed() -> None:
    slots = cpu_backend.DecodeSlots([8, 8, 4], TopK(0.25))

    def select(slot: int, x: torch.Tensor) -> None:
        y = torch.empty_like(x)
        slots.slot_function(slot, x.dtype)(x.data_ptr(), y.data_ptr())

    x = torch.randn(1, 8)
    select(0, x)
    select(0, x)
    select(1, x)
    assert not slots.drain().any()  # the round has not ended
    slots.commit()
    select(0, x)
    slots.rollback()
    select(2, torch.randn(4))
    select(2, torch.tensor([1.0, float("nan"), 0.0, 0.0]))
    slots.commit()
    select(1, x)
    assert slots.drain().tolist() == [[12, 16, 0], [6, 8, 0], [3, 4, 1]]
    slots.commit()
    assert slots.drain().tolist() == [[0, 0, 0], [6, 8, 0], [0, 0, 0]]


def test_many_rows_on_all_threads() -> None:
    x = torch.randn(3000, 100)
    y, kept = cpu_backend.select(x, TopP(0.9))
    expected_y, expected_kept = reference.select(x, TopP(0.9))
    assert torch.equal(y, expected_y)
    assert torch.equal(kept, expected_kept)


@pytest.mark.parametrize("has_openmp", [True, False])
def test_threads_with_and_without_an_openmp_runtime(monkeypatch: pytest.MonkeyPatch, has_openmp: bool) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    if not has_openmp:
        monkeypatch.setattr(cpu_backend, "find_openmp_parallel", lambda: None)
    x = torch.randn(1000, 100)
    assert torch.equal(cpu_backend.select(x, TopK(0.3))[0], reference.select(x, TopK(0.3))[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_counts_are_written_to_the_memory_passed_in(dtype: torch.dtype) -> None:
    x = torch.randn(5, 40).to(dtype)
    for memory in torch.full((3, 5), -7, dtype=torch.int32).unbind():
        y, kept = cpu_backend.select(x, TopP(0.8), memory)
        assert kept is memory
        expected_y, expected_kept = reference.select(x, TopP(0.8))
        assert torch.equal(y, expected_y)
        assert torch.equal(kept, expected_kept)


def test_counts_ignore_the_default_device() -> None:
    with torch.device("meta"):
        _, kept = cpu_backend.select(torch.ones(2, 4, device="cpu"), TopK(0.5))
    assert kept.tolist() == [2, 2]


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(SpecError, match=r"'custom'.*top_p, top_k, max_p"):
        cpu_backend.select(torch.randn(4), CustomRule())
    with pytest.raises(SpecError, match=r"'custom'.*top_p, top_k, max_p"):
        cpu_backend.DecodeSlots([4], CustomRule())


def test_everything_that_numba_compiles_is_in_one_file() -> None:
    """Numba's cache on disk notices only changes in a function's own file, so an old kernel could stay in use."""
    for module in (cpu_backend, cpu_numba):
        for value in vars(module).values():
            if isinstance(value, Dispatcher):
                assert value.py_func.__module__ == cpu_numba.__name__
    assert cpu_numba.compile_batch_kernel.__module__ == cpu_numba.__name__
    assert cpu_numba.compile_decode_kernel.__module__ == cpu_numba.__name__


def test_records_fill_whole_cache_lines() -> None:
    assert cpu_numba.BATCH_ARGUMENTS.itemsize == 64
    assert cpu_numba.DECODE_SLOT.itemsize == 128
