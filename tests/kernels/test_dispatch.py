"""The operator, the choice of its backend, and rules that no backend computes."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from torch.library import opcheck

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.kernels import apply_rule, dispatch, reference
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules import TopK, TopP
from tests.support.custom_rule import CustomRule


def test_opcheck() -> None:
    for x in (torch.randn(4, 33), torch.randn(2, 3, 16).bfloat16(), torch.randn(5)):
        opcheck(torch.ops.sparsedial.select, (x, "top_p", 0.9))


def test_compile_fullgraph() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def compiled(x: torch.Tensor) -> torch.Tensor:
        y, kept = apply_rule(x * 2, TopP(0.9))
        return y.sum(-1) + kept

    x = torch.randn(4, 64)
    y, kept = reference.select(x * 2, TopP(0.9))
    assert torch.equal(compiled(x), y.sum(-1) + kept)


def test_forced_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 50)
    for name in ("reference", "cpu"):
        monkeypatch.setenv(dispatch.BACKEND_VARIABLE, name)
        assert torch.equal(apply_rule(x, TopK(0.5))[0], reference.select(x, TopK(0.5))[0])
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "gpu")
    with pytest.raises(SpecError, match="reference, cpu, triton"):
        apply_rule(x, TopK(0.5))


def test_only_the_cpu_backend_has_decode_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BoundRule(TopK(0.5)).decode_slots([4, 8]) is not None
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "reference")
    assert BoundRule(TopK(0.5)).decode_slots([4, 8]) is None


def test_without_numba_the_reference_is_used_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_to_load(name: str) -> None:
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(dispatch, "load_backend", fail_to_load)
    dispatch.load_backend_or_reference.cache_clear()
    try:
        with pytest.warns(UserWarning, match="slow reference"):
            y, _ = apply_rule(torch.tensor([4.0, -3.0, 2.0, 1.0]), TopP(0.7))
        assert y.tolist() == [4.0, -3.0, 0.0, 0.0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            apply_rule(torch.randn(4), TopP(0.7))
    finally:
        dispatch.load_backend_or_reference.cache_clear()


def test_import_is_light() -> None:
    code = "import sys, sparsedial.kernels; assert not {'numba', 'triton'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_rule_that_keeps_no_set_of_entries_is_refused(llama) -> None:
    with pytest.raises(SpecError, match=r"CustomRule.*neither keep_mask nor bind"):
        apply_rule(torch.randn(4), CustomRule())
    with pytest.raises(SpecError, match=r"CustomRule.*neither keep_mask nor bind"):
        sd.sparsify(llama, "input", CustomRule())
    with pytest.raises(SpecError, match="expected a rule such as"):
        apply_rule(torch.randn(4), "top_p")  # type: ignore[arg-type]


@pytest.mark.parametrize("x", [torch.tensor(1.0), torch.ones(3, dtype=torch.int64), [1.0, 2.0]], ids=str)
def test_apply_rule_refuses_anything_but_float_vectors(x: object) -> None:
    with pytest.raises(SpecError, match="expected a float tensor"):
        apply_rule(x, TopP(0.5))  # type: ignore[arg-type]
