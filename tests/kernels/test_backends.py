"""Every backend against the conformance suite, and the op around them."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import conformance
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher
from torch.library import opcheck

from sparsedial.errors import SpecError
from sparsedial.kernels import apply_rule, cpu, op, reference, search
from sparsedial.rules import TopK, TopP


def in_place(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Every vector at one place, after the other: each search begins where the one before ended."""
    if x.numel() == 0:
        return cpu.select(x, rule, value)
    places = cpu.Places([x.shape[-1]], rule, value)
    select, rows, kept = places.at(0, x.dtype), [], []
    for row in x.reshape(-1, x.shape[-1]).contiguous():
        rows.append(torch.empty_like(row))
        select(row.data_ptr(), rows[-1].data_ptr())
        places.end()
        [[dropped, total, bad]] = places.take()
        assert total == (1 - bad) * row.numel()
        kept.append(-1 if bad else total - dropped)
    return torch.stack(rows).view(x.shape), torch.tensor(kept, dtype=torch.int32).view(x.shape[:-1])


BACKENDS: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {
    "reference": reference.select,
    "cpu": cpu.select,
    "cpu, in one place": in_place,
}
WIDTHS = (1, 2, 31, 33, 576, 4097)


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backend does not write is seen: fresh memory is full of ones."""
    for name in ("empty", "empty_like"):
        fresh = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, fresh=fresh, **kw: fresh(*args, **kw).fill_(77))


@pytest.mark.parametrize("dtype", conformance.DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_conformance(backend: str, width: int, dtype: torch.dtype) -> None:
    for name, x in conformance.cases(width, 3, dtype):
        if name == "large" and dtype == torch.float64:
            continue  # the sum overflows float64: the definition itself has no answer
        for rule in conformance.RULES:
            for dial in conformance.DIALS:
                conformance.check(BACKENDS[backend], x, rule, dial)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_boundary_entry_rarely_differs(dtype: torch.dtype) -> None:
    tally = conformance.Tally()
    for _ in range(20):
        p = float(torch.rand(()))
        conformance.check(cpu.select, torch.randn(64, 700).to(dtype), "top_p", p, tally)
    assert tally.vectors == 1280 and tally.differ <= 1  # float64 sums in another order: about one in 10^9


@pytest.mark.parametrize("p", [0.1, 0.5, 0.7])
def test_exact_sums_leave_nothing_to_rounding(p: float) -> None:
    tally = conformance.Tally()
    for n in (10, 100, 1000):  # equal entries: p * n may fall exactly on a boundary
        conformance.check(cpu.select, torch.ones(4, n), "top_p", p, tally)
        conformance.check(cpu.select, torch.randint(-8, 9, (8, n)).float(), "top_p", p, tally)
    assert tally.differ == 0


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(width=16, allow_nan=True, allow_infinity=True), min_size=1, max_size=80),
    dial=st.floats(0, 1),
    rule=st.sampled_from(conformance.RULES),
    dtype=st.sampled_from(conformance.DTYPES),
)
def test_any_vector(backend: str, values: list[float], dial: float, rule: str, dtype: torch.dtype) -> None:
    conformance.check(BACKENDS[backend], torch.tensor(values, dtype=torch.float64).to(dtype), rule, dial)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (2, 0, 4), (5,), (2, 3, 4, 5)])
def test_shapes(backend: str, shape: tuple[int, ...]) -> None:
    y, kept = BACKENDS[backend](torch.randn(shape), "top_p", 0.5)
    assert y.shape == shape and kept.shape == shape[:-1]
    assert (kept > 0).all() if shape[-1] else (kept == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend: str) -> None:
    x = torch.randn(40, 6, 20)
    for view in (x.transpose(0, 2), x[::2, :, 1::3], x[:, :1].expand(40, 5, 20), x.mT):
        conformance.check(BACKENDS[backend], view, "top_p", 0.8)


def test_places_count_the_rounds_that_end() -> None:
    places = cpu.Places([8, 8, 4], "top_k", 0.25)

    def at(place: int, x: torch.Tensor) -> None:
        y = torch.empty_like(x)
        places.at(place, x.dtype)(x.data_ptr(), y.data_ptr())

    x = torch.randn(1, 8)
    at(0, x), at(0, x), at(1, x)
    assert not places.take().any()  # the round is under way
    places.end()
    at(0, x)
    places.cancel()
    at(2, torch.randn(4))
    at(2, torch.tensor([1.0, float("nan"), 0.0, 0.0]))
    places.end()
    at(1, x)
    assert places.take().tolist() == [[12, 16, 0], [6, 8, 0], [3, 4, 1]]
    places.end()
    assert places.take().tolist() == [[0, 0, 0], [6, 8, 0], [0, 0, 0]]


def test_many_rows_on_all_threads() -> None:
    x = torch.randn(3000, 100)
    y, kept = cpu.select(x, "top_p", 0.9)
    want, want_kept = reference.select(x, "top_p", 0.9)
    assert torch.equal(y, want) and torch.equal(kept, want_kept)


def test_without_an_openmp_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_fork_join", lambda: None)
    x = torch.randn(1000, 100)
    assert torch.equal(cpu.select(x, "top_k", 0.3)[0], reference.select(x, "top_k", 0.3)[0])


@pytest.mark.parametrize("dtype", conformance.DTYPES, ids=str)
def test_counts_go_where_they_are_told_to(dtype: torch.dtype) -> None:
    x = torch.randn(5, 40).to(dtype)
    for place in torch.full((3, 5), -7, dtype=torch.int32).unbind():
        y, kept = cpu.select(x, "top_p", 0.8, place)
        assert kept is place
        want, counts = reference.select(x, "top_p", 0.8)
        assert torch.equal(y, want) and torch.equal(kept, counts)


def test_the_default_device_is_not_that_of_the_counts() -> None:
    with torch.device("meta"):
        _, kept = cpu.select(torch.ones(2, 4, device="cpu"), "top_k", 0.5)
    assert kept.tolist() == [2, 2]


def test_opcheck() -> None:
    for x in (torch.randn(4, 33), torch.randn(2, 3, 16).bfloat16(), torch.randn(5)):
        opcheck(torch.ops.sparsedial.select, (x, "top_p", 0.9))


def test_compile_fullgraph() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def f(x: torch.Tensor) -> torch.Tensor:
        y, kept = apply_rule(x * 2, TopP(0.9))
        return y.sum(-1) + kept

    x = torch.randn(4, 64)
    y, kept = reference.select(x * 2, "top_p", 0.9)
    assert torch.equal(f(x), y.sum(-1) + kept)


def test_forced_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 50)
    for name in ("reference", "cpu"):
        monkeypatch.setenv(op.VARIABLE, name)
        assert torch.equal(apply_rule(x, TopK(0.5))[0], reference.select(x, "top_k", 0.5)[0])
    monkeypatch.setenv(op.VARIABLE, "gpu")
    with pytest.raises(SpecError, match="reference, cpu, triton"):
        apply_rule(x, TopK(0.5))


def test_without_numba_the_reference_steps_in_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(op, "load", absent)
    op._load_or_reference.cache_clear()
    try:
        with pytest.warns(UserWarning, match="slow reference"):
            y, _ = apply_rule(torch.tensor([4.0, -3.0, 2.0, 1.0]), TopP(0.7))
        assert y.tolist() == [4.0, -3.0, 0.0, 0.0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            apply_rule(torch.randn(4), TopP(0.7))
    finally:
        op._load_or_reference.cache_clear()


def test_what_numba_compiles_is_in_one_file() -> None:
    """Its cache on disk notices a change of a function's own file only: an old kernel would go on being used."""
    for module in (cpu, search):
        compiled = [f for f in vars(module).values() if isinstance(f, Dispatcher)]
        assert {f.py_func.__module__ for f in compiled} <= {search.__name__}
    assert search.compiled.__module__ == search.compiled_single.__module__ == search.__name__  # their cfuncs too


def test_import_is_light() -> None:
    code = "import sys, sparsedial.kernels; assert not {'numba', 'triton'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_triton_interpreted() -> None:
    """The Triton kernels under its interpreter, in a process of their own (it is chosen at import)."""
    script = Path(__file__).parent / "triton_interpreted.py"
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
