"""Whole FFNs on the CPU: one call of `sparsedial.acceleration.cpu_ffn_kernels` for a decode step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any, NamedTuple

import numpy as np
import torch

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS, FfnStep, GatedFormula, KeptInputProduct
from sparsedial.acceleration.cpu_ffn_kernels import (
    DONE,
    FFN_STEP,
    INPUT_TOO_DENSE,
    NO_RULE,
    SLOT,
    THRESHOLD,
    compile_activation,
    compile_ffn_step,
)
from sparsedial.acceleration.cpu_products import KeptInputs
from sparsedial.kernels.cpu_numba import compile_decode_function
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules.threshold import AboveThreshold

NO_ROWS = -1  # limit of a product that the library computes, whatever the vectors


class CpuFfnKernels:
    """The kernels of whole FFNs: see `sparsedial.acceleration.backend.FfnKernels`."""

    def make_step(
        self,
        formula: GatedFormula,
        products: tuple[KeptInputProduct, KeptInputProduct],
        rules: tuple[BoundRule | None, BoundRule | None],
        dense: tuple[bool, bool] = (False, False),
    ) -> FfnStep | None:
        """Return a function that computes a whole FFN.

        Args:
            formula: The FFN.
            products: The products of x and of the intermediate vector.
            rules: Their rules, or None.
            dense: True for a product that runs without its rule and is not counted. Defaults to False for both.

        Returns:
            The function. None if a rule has no kernel that can be part of it.
        """
        selections = []
        for product, rule, is_dense in zip(products, rules, dense, strict=True):
            assert isinstance(product, KeptInputs)
            if is_dense:
                rule = None
            selection = _make_selection(rule, product)
            if selection is None:
                return None
            selections.append(selection)
        first, second = products
        assert isinstance(first, KeptInputs)
        assert isinstance(second, KeptInputs)
        return _CpuFfnStep(formula, (first, second), (selections[0], selections[1]), dense)

    def activate(self, formula: GatedFormula, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return the intermediate vector, with the bits that it has in a step.

        Args:
            formula: The FFN.
            gate: Outputs of the gate, shape [..., width].
            up: u, shape [..., width].

        Returns:
            u times the activation of the gate, shape [..., width].
        """
        gate = gate.contiguous()
        up = up.contiguous()
        out = torch.empty_like(gate)
        kernel = compile_activation(gate.dtype, formula.activation)
        kernel(gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel())
        return out


class _Selection(NamedTuple):
    """The fields of a `SELECTION` record, except for the memory, and the owner of the slot."""

    kind: int
    width: int
    function_address: int = 0
    slot_address: int = 0
    threshold: float = 0.0
    owner: Any = None


def _make_selection(rule: BoundRule | None, product: KeptInputs) -> _Selection | None:
    """Return how a rule is applied in compiled code. None if it cannot be."""
    if rule is None:
        return _Selection(NO_RULE, product.rows)
    if type(rule.rule) is AboveThreshold:
        return _Selection(THRESHOLD, product.rows, threshold=rule.rule.threshold)
    slots = rule.decode_slots([product.rows])
    if slots is None:
        return None
    function = compile_decode_function(product.weight.dtype)
    return _Selection(SLOT, product.rows, function, slots.slot_address(0), owner=slots)


class _StepCall(NamedTuple):
    """A kernel that is bound to a record, with the record and the memory that it refers to."""

    run: Callable[[int, int, bool], int]
    record: np.ndarray
    sparse_x: torch.Tensor
    joined: torch.Tensor
    sparse_intermediate: torch.Tensor


class _CpuFfnStep:
    """A whole FFN with its rules, for a few vectors. Each thread has memory of its own.

    Args:
        formula: The FFN.
        products: The products of x and of the intermediate vector.
        selections: How their vectors are made sparse.
        dense: Whether their calls are not counted, and their limits depend only on the number of vectors.
    """

    def __init__(
        self,
        formula: GatedFormula,
        products: tuple[KeptInputs, KeptInputs],
        selections: tuple[_Selection, _Selection],
        dense: tuple[bool, bool],
    ) -> None:
        self._dense = dense
        self._formula = formula
        self._first, self._second = products
        self._selections = selections
        self._hidden = self._first.rows
        self._keeps_shape = self._second.columns == self._hidden  # new memory of the same shape takes less time
        self._calls: dict[tuple[int, int, int], _StepCall] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the FFN.

        Args:
            x: At most `MAX_DECODE_VECTORS` vectors, shape [..., hidden], contiguous.

        Returns:
            The result, shape [..., outputs].
        """
        key = (x.numel() // self._hidden, torch.get_num_threads(), get_ident())
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = self._make_call(key[0])
        out = torch.empty_like(x) if self._keeps_shape else x.new_empty((*x.shape[:-1], self._second.columns))
        result = call.run(x.data_ptr(), out.data_ptr(), False)
        if result == INPUT_TOO_DENSE:
            sparse_x = call.sparse_x
            if self._selections[0].kind == NO_RULE:
                sparse_x = x.reshape(sparse_x.shape)
            call.joined.copy_(self._first.multiply_with_library(sparse_x))
            result = call.run(x.data_ptr(), out.data_ptr(), True)
        if result == DONE:
            return out
        return self._second.multiply_with_library(call.sparse_intermediate).reshape(out.shape)

    def _make_call(self, vectors: int) -> _StepCall:
        dtype = self._first.weight.dtype
        formula = self._formula
        record = np.zeros(1, FFN_STEP)
        sparse_x = _scratch(dtype, vectors, self._hidden, 0)
        joined = _scratch(dtype, vectors, self._first.columns, 1)
        intermediate = _scratch(dtype, vectors, formula.width, 2)
        sparse_intermediate = intermediate
        if self._selections[1].kind != NO_RULE:
            sparse_intermediate = _scratch(dtype, vectors, formula.width, 3)
        record["vectors"] = vectors
        record["joined_address"] = joined.data_ptr()
        record["joined_columns"] = self._first.columns
        record["up_start"] = formula.up_start
        record["gate_start"] = formula.gate_start
        record["width"] = formula.width
        record["intermediate_address"] = intermediate.data_ptr()
        for name, product, selection, memory, is_dense in (
            ("input", self._first, self._selections[0], sparse_x, self._dense[0]),
            ("intermediate", self._second, self._selections[1], sparse_intermediate, self._dense[1]),
        ):
            selected = record[f"select_{name}"]
            for field in ("kind", "width", "function_address", "slot_address", "threshold"):
                selected[field] = getattr(selection, field)
            selected["y_address"] = memory.data_ptr()
            call = product.find_call(vectors)
            if is_dense:
                limit = NO_ROWS if product.limits.prefers_library(vectors) else None
                call = product.find_uncounted_call(vectors, limit)
            multiplied = record[f"multiply_{name}"]
            multiplied["function_address"] = call.kernel.run_address
            multiplied["record_address"] = call.record.ctypes.data
            multiplied["worker_address"] = call.kernel.worker
        run = partial(compile_ffn_step(dtype, formula.activation), record.ctypes.data)
        return _StepCall(run, record, sparse_x, joined, sparse_intermediate)


_memory: dict[tuple[int, torch.dtype, int, int], torch.Tensor] = {}


@torch.inference_mode(False)  # so that later calls outside of inference mode can write to it
def _scratch(dtype: torch.dtype, vectors: int, width: int, role: int) -> torch.Tensor:
    """Return memory for some vectors, which all FFNs of a thread share. It is small, so it stays in the caches."""
    key = (get_ident(), dtype, width, role)
    if key not in _memory:
        _memory[key] = torch.empty((MAX_DECODE_VECTORS, width), dtype=dtype)
    return _memory[key][:vectors]
