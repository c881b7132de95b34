"""A whole gated FFN on the CPU in one call: the rules, both products, and the activation between them.

The products and rules are the compiled functions that `cpu_kernels` and `sparsedial.kernels.cpu_numba` provide. They
are called by their addresses. Between two products, the processor does not run any Python code, whose data the weights
have evicted from its caches.

The activation is computed in float32 and rounded to the dtype, and so is its product with u, as PyTorch does it. The
exponential function is a polynomial that the compiler vectorises, so the last bits can differ from those of PyTorch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]  # numba exports it untyped
from numba.extending import intrinsic

from sparsedial.acceleration.cpu_kernels import FORMATS, from_float32, pointer_to, to_float32

ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3}
"""Codes of the activations."""

# How a vector is made sparse.
NO_RULE = 0
SLOT = 1  # by a slot of the decode kernel
THRESHOLD = 2  # by a fixed threshold

SELECTION = np.dtype(
    [
        ("kind", np.int64),
        ("function_address", np.int64),  # of the decode kernel
        ("slot_address", np.int64),
        ("threshold", np.float64),
        ("width", np.int64),
        ("y_address", np.int64),  # memory for the sparse vectors
    ],
    align=True,
)
"""How the vectors that a product reads are made sparse."""

PRODUCT_CALL = np.dtype(
    [("function_address", np.int64), ("record_address", np.int64), ("worker_address", np.int64)], align=True
)
"""A compiled product and its arguments, see `cpu_kernels.ProductKernel`."""

FFN_STEP = np.dtype(
    [
        ("vectors", np.int64),
        ("select_input", SELECTION),
        ("multiply_input", PRODUCT_CALL),
        ("joined_address", np.int64),  # memory for the outputs of the projections that read x
        ("joined_columns", np.int64),
        ("up_start", np.int64),  # first entry of u in these outputs
        ("gate_start", np.int64),
        ("width", np.int64),
        ("intermediate_address", np.int64),
        ("select_intermediate", SELECTION),
        ("multiply_intermediate", PRODUCT_CALL),
    ],
    align=True,
)
"""Arguments of one FFN."""

# Results of a step.
DONE = 0
INPUT_TOO_DENSE = 1  # the list of rows of a product is longer than its limit
INTERMEDIATE_TOO_DENSE = 2

LOG2_E = np.float32(1 / math.log(2))
LN2_HIGH = np.float32(0.693359375)  # few bits, so that products with small integers are exact
LN2_LOW = np.float32(math.log(2) - 0.693359375)
LARGEST = np.float32(100)  # the results beyond it, and of some smaller arguments, are zero or infinite
EXPONENTS = (np.float32(-127), np.float32(128))  # 2 to these powers is encoded as zero and as infinity
# Coefficients of the Taylor series of exp(r), from r**7 / 7! down to r**2 / 2!, for |r| <= ln(2) / 2.
C7, C6, C5, C4, C3, C2 = (np.float32(1 / math.factorial(n)) for n in range(7, 1, -1))
ONE = np.float32(1)
HALF = np.float32(0.5)
GELU_SCALE = np.float32(math.sqrt(2 / math.pi))
GELU_CUBIC = np.float32(0.044715)
SQRT_HALF = np.float32(math.sqrt(0.5))

_intrinsic: Any = intrinsic
_compiled = njit(cache=True, error_model="numpy")
_INT64 = ir.IntType(64)


@_intrinsic
def _call_select(typing_context: Any, function: Any, slot: Any, x: Any, y: Any) -> Any:
    """Call the decode kernel of a rule. All arguments are addresses."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function, *rest = arguments
        function_type = ir.FunctionType(ir.VoidType(), [_INT64] * 3)
        builder.call(builder.inttoptr(function, function_type.as_pointer()), rest)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@_intrinsic
def _call_product(typing_context: Any, function: Any, record: Any, worker: Any, x: Any, out: Any) -> Any:
    """Call a product without a mask. All arguments are addresses. The result is 1 if it was computed, otherwise 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function, record, worker, x, out = arguments
        function_type = ir.FunctionType(_INT64, [_INT64] * 5)
        no_mask = ir.Constant(_INT64, 0)
        return builder.call(builder.inttoptr(function, function_type.as_pointer()), [record, worker, x, no_mask, out])

    return types.int64(*[types.int64] * 5), generate


@njit(cache=True, error_model="numpy", inline="always")
def _exp(x):
    """Return e to the power of x, with a relative error of about 1e-7. Results below 1e-38 are zero."""
    x = -LARGEST if x < -LARGEST else x
    x = LARGEST if x > LARGEST else x
    exponent = np.rint(x * LOG2_E)
    exponent = EXPONENTS[0] if exponent < EXPONENTS[0] else exponent
    exponent = EXPONENTS[1] if exponent > EXPONENTS[1] else exponent
    r = (x - exponent * LN2_HIGH) - exponent * LN2_LOW
    series = ((((C7 * r + C6) * r + C5) * r + C4) * r + C3) * r + C2
    power = to_float32(np.int32((np.int32(exponent) + np.int32(127)) << np.int32(23)))
    return (series * r * r + r + ONE) * power


@_compiled
def _activate_row(gate, up, out, raw, activation):
    """Write up * activation(gate) for one vector, given and written as raw bits."""
    for i in range(out.size):
        x = to_float32(gate[i])
        if activation == 0:
            y = x / (ONE + _exp(-x))
        elif activation == 1:
            inner = GELU_SCALE * (x + GELU_CUBIC * x * x * x)
            y = x / (ONE + _exp(-inner - inner))  # x * (1 + tanh(inner)) / 2
        elif activation == 2:
            y = HALF * x * (ONE + np.float32(math.erf(x * SQRT_HALF)))
        else:
            y = np.float32(0) if x < np.float32(0) else x
        y = to_float32(from_float32(raw, y))  # PyTorch rounds the activation before it multiplies
        out[i] = from_float32(raw, y * to_float32(up[i]))


@_compiled
def _select_above(x, y, threshold, raw):
    """Keep the entries of one vector above a threshold. A vector with a NaN or infinity is unchanged."""
    is_finite = True
    for i in range(x.size):
        value = to_float32(x[i])
        is_finite &= value - value == 0
    for i in range(x.size):
        is_kept = np.float64(abs(to_float32(x[i]))) > threshold or not is_finite
        y[i] = x[i] if is_kept else raw(0)


@_compiled
def _select(selection, x_address, vectors, raw, size):
    """Make vectors sparse and return the address of the result."""
    if selection.kind == NO_RULE:
        return x_address
    step = selection.width * size
    for vector in range(vectors):
        x = x_address + vector * step
        y = selection.y_address + vector * step
        if selection.kind == SLOT:
            _call_select(selection.function_address, selection.slot_address, x, y)
        else:
            shape = (selection.width,)
            _select_above(
                carray(pointer_to(x, raw), shape), carray(pointer_to(y, raw), shape), selection.threshold, raw
            )
    return selection.y_address


@_compiled
def _multiply(call, x_address, out_address):
    """Call a product. The result is 1 if it was computed, otherwise 0."""
    return _call_product(call.function_address, call.record_address, call.worker_address, x_address, out_address)


@functools.cache
def compile_ffn_step(dtype: torch.dtype, activation: str) -> Callable[[int, int, int, bool], int]:
    """Compile a gated FFN for a few vectors. Later processes load it from numba's cache on disk.

    Args:
        dtype: Dtype of all vectors and matrices.
        activation: Name of the activation, one of `ACTIVATIONS`.

    Returns:
        A function of the addresses of an `FFN_STEP` record, of x, and of the result, and of whether to begin with the
        activation because the projections have been computed already. It returns `DONE`, or the product that has to be
        computed in another way.
    """
    _, raw, size, _ = FORMATS[dtype]
    code = ACTIVATIONS[activation]

    @njit(types.int64(types.int64, types.int64, types.int64, types.boolean), cache=True, error_model="numpy")
    def run(address, x_address, out_address, begins_with_activation):
        step = carray(pointer_to(address, FFN_STEP), (1,))[0]
        vectors = step.vectors
        columns = step.joined_columns
        width = step.width
        if not begins_with_activation:
            sparse_x = _select(step.select_input, x_address, vectors, raw, size)
            if _multiply(step.multiply_input, sparse_x, step.joined_address) == 0:
                return INPUT_TOO_DENSE
        joined = carray(pointer_to(step.joined_address, raw), (vectors, columns))
        intermediate = carray(pointer_to(step.intermediate_address, raw), (vectors, width))
        for i in range(vectors):
            gate = joined[i, step.gate_start : step.gate_start + width]
            up = joined[i, step.up_start : step.up_start + width]
            _activate_row(gate, up, intermediate[i], raw, code)
        sparse = _select(step.select_intermediate, step.intermediate_address, vectors, raw, size)
        if _multiply(step.multiply_intermediate, sparse, out_address) == 0:
            return INTERMEDIATE_TOO_DENSE
        return DONE

    return run.overloads[run.signatures[0]].entry_point  # type: ignore[attr-defined]  # defined in C


@functools.cache
def compile_activation(dtype: torch.dtype, activation: str) -> Callable[[int, int, int, int], None]:
    """Compile the product of u and g, with the bits that it has in `compile_ffn_step`.

    Args:
        dtype: Dtype of the vectors.
        activation: Name of the activation, one of `ACTIVATIONS`.

    Returns:
        A function of the addresses of the output of the gate, of u and of the result, and of the number of entries.
    """
    _, raw, _, _ = FORMATS[dtype]
    code = ACTIVATIONS[activation]

    @njit(types.void(types.int64, types.int64, types.int64, types.int64), cache=True, error_model="numpy")
    def run(gate_address, up_address, out_address, entries):
        gate = carray(pointer_to(gate_address, raw), (entries,))
        up = carray(pointer_to(up_address, raw), (entries,))
        _activate_row(gate, up, carray(pointer_to(out_address, raw), (entries,)), raw, code)

    return run.overloads[run.signatures[0]].entry_point  # type: ignore[attr-defined]  # defined in C
