"""The CUDA backend (Triton): one program per vector, which stays in registers from the read to the write.

With q(u) the mass (top-p) or number (top-k) of the entries whose magnitude's bit pattern is at least
``u``, the program narrows a bracket ``lo <= u < hi`` with ``q(lo) >= target > q(hi)``, two evaluations
a pass, interpolating; a bracket of one pattern, or of one entry, settles the vector: everything from
``hi`` up stays, and of the entries in the bracket the first few. Nothing is sorted and nothing leaves
the chip in between.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from sparsedial.errors import SpecError
from sparsedial.kernels import reference

TOP_P, TOP_K, MAX_P = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
RULES = {"top_p": 0, "top_k": 1, "max_p": 2}
WIDEST = 32768  # the widest vector that fits on chip; wider ones take the reference


@triton.jit
def _add(a, b, c, d):
    return a + c, b + d


@triton.jit
def _part(x, at, BY_MASS: tl.constexpr, EXACT: tl.constexpr):
    """Mass or number of the entries of magnitude ``at`` or above, of each eight, in float64.

    16-bit floats are added eight by eight in float32, which loses nothing as long as the eight lie
    within 13 binades of each other; wider floats are added in float64 throughout.
    """
    a = tl.abs(x)
    if BY_MASS:
        stays = tl.where(a >= at, a, 0.0)
    else:
        stays = tl.where(a >= at, 1.0, 0.0)
    if EXACT:
        stays = stays.to(tl.float64)
    return tl.sum(tl.reshape(stays, (x.shape[0] // 8, 8)), 1).to(tl.float64)


@triton.jit
def _q(x, below, above, BY_MASS: tl.constexpr, EXACT: tl.constexpr):
    """q at two magnitudes, in one reduction."""
    return tl.reduce((_part(x, below, BY_MASS, EXACT), _part(x, above, BY_MASS, EXACT)), 0, _add)


@triton.jit
def _value(u, DTYPE: tl.constexpr):
    """The magnitude with bit pattern ``u``, in float32."""
    if DTYPE == tl.float32:
        v = u.to(tl.float32, bitcast=True)
    elif DTYPE == tl.bfloat16:
        v = (u << 16).to(tl.float32, bitcast=True)
    else:
        v = u.to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
    return v


@triton.jit
def _pattern(v, DTYPE: tl.constexpr):
    """The bit pattern of a magnitude, rounded to the dtype (one way or another)."""
    if DTYPE == tl.float32:
        u = v.to(tl.int32, bitcast=True)
    elif DTYPE == tl.bfloat16:
        u = v.to(tl.int32, bitcast=True) >> 16
    else:
        u = v.to(DTYPE).to(tl.int16, bitcast=True).to(tl.int32)
    return u


@triton.jit
def _select(
    x_ptr,
    y_ptr,
    kept_ptr,
    value: tl.float64,  # the dial; for top-k, the count. Typed, because Triton takes a float for float32
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    RULE: tl.constexpr,
    DTYPE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * WIDTH + index, mask=index < WIDTH, other=0.0)
    EXACT: tl.constexpr = DTYPE == tl.float32
    BY_MASS: tl.constexpr = RULE == TOP_P
    if EXACT:
        u = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        infinity = 0x7F800000
    else:
        u = x.to(tl.int16, bitcast=True).to(tl.int32) & 0x7FFF
        infinity = 0x7F80 if DTYPE == tl.bfloat16 else 0x7C00
    if DTYPE == tl.bfloat16:
        s = (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        s = x.to(tl.float32)
    top = tl.max(u, 0)

    # What stays: all of `hi` and above, and the first `more` of [lo, hi). To begin with, nothing.
    lo = top + 1
    hi = top + 1
    more = 0
    if top >= infinity:
        hi = lo
    elif RULE == MAX_P:
        exact = value * _value(top, DTYPE).to(tl.float64)
        hi = _pattern(exact.to(tl.float32), DTYPE)
        if _value(hi, DTYPE).to(tl.float64) < exact:
            hi += 1
        elif (hi > 0) & (_value(tl.maximum(hi - 1, 0), DTYPE).to(tl.float64) >= exact):
            hi -= 1  # rounded twice on its way to 16 bits
        hi = tl.maximum(hi, 1)
        lo = hi
    else:
        mass = tl.sum(_part(s, 0.0, True, EXACT), 0)
        if BY_MASS:
            total = mass
            target = value * total
            todo = (value > 0.0) & (value < 1.0) & (total > 0.0)
            if value >= 1.0:
                lo = top * 0 + 1
                hi = lo
        else:
            total = mass * 0.0 + WIDTH
            target = mass * 0.0 + value
            todo = (target > 0.0) & (target < WIDTH)
            if target >= WIDTH:
                lo = top * 0
                hi = lo
        if todo:
            lo = top * 0
            q_lo = total
            q_hi = total * 0.0
            # The first guess: where a normal (top-p) or a Laplace vector (top-k) of this mean has it.
            mean = (mass / WIDTH).to(tl.float32)
            share = (target / total).to(tl.float32)
            if BY_MASS:
                guess = mean * 1.2533 * tl.sqrt(-2.0 * tl.log(share))
            else:
                guess = mean * -tl.log(share)
            reach = guess * 0.06
            tries = 0
            step = target * 0.0 + (0.0 if BY_MASS else 1.0)  # what one entry at lo adds
            while (hi - lo > 1) & (tl.abs(q_lo - q_hi - step) >= 0.5 * step):
                below = _pattern(tl.maximum(guess - reach, 0.0), DTYPE)
                above = _pattern(guess + reach, DTYPE) + 1
                if tries >= 5:  # a distribution that interpolation does not suit
                    below = lo + (hi - lo) // 3
                    above = hi - (hi - lo) // 3
                below = tl.minimum(tl.maximum(below, lo + 1), hi - 1)
                above = tl.minimum(tl.maximum(above, below), hi - 1)
                q_below, q_above = _q(s, _value(below, DTYPE), _value(above, DTYPE), BY_MASS, EXACT)
                if q_below < target:
                    hi = below
                    q_hi = q_below
                elif q_above < target:
                    lo = below
                    q_lo = q_below
                    hi = above
                    q_hi = q_above
                else:
                    lo = above
                    q_lo = q_above
                v_lo = _value(lo, DTYPE)
                v_hi = _value(tl.minimum(hi, infinity - 1), DTYPE)
                guess = v_hi + (v_lo - v_hi) * ((target - q_hi) / (q_lo - q_hi)).to(tl.float32)
                reach = (v_hi - v_lo) * 0.06
                if BY_MASS:
                    step = v_lo.to(tl.float64)
                tries += 1
            # Of the bracket's entries (all equal, or one), as many as the target takes.
            more = (tl.minimum((target - q_hi) / tl.maximum(step, 1e-300), 40000.0)).to(tl.int32)
            if q_hi + more * step < target:
                more += 1
            if (more > 1) & (q_hi + (more - 1) * step >= target):
                more -= 1
            more = tl.maximum(more, 1)

    a = tl.abs(s)
    keep = (a >= _value(hi, DTYPE)) & (index < WIDTH)
    count = tl.sum(keep.to(tl.int32), 0)
    if more > 0:
        inside = (a >= _value(lo, DTYPE)) & (a < _value(hi, DTYPE)) & (index < WIDTH)
        n = tl.sum(inside.to(tl.int32), 0)
        if more < n:
            inside = inside & (tl.cumsum(inside.to(tl.int32), 0) <= more)
        keep = keep | inside
        count += tl.minimum(n, more)
    count = tl.where(top < infinity, count, -1)
    if DTYPE == tl.bfloat16:
        x = (s.to(tl.int32, bitcast=True) >> 16).to(tl.int16).to(DTYPE, bitcast=True)
    tl.store(y_ptr + row * WIDTH + index, tl.where(keep | (top >= infinity), x, 0.0), mask=index < WIDTH)
    tl.store(kept_ptr + row, count)


_compiled: dict[Any, Any] = {}
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_INTERPRETED = not isinstance(_select, triton.runtime.JITFunction)


def _warps(block: int) -> int:
    return min(max(block // 1024, 1), 16)


def select(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The op on a CUDA tensor: see `sparsedial.kernels.reference.select`, whose answer it gives.

    float64, and vectors wider than `WIDEST`, take the reference.
    """
    width = x.shape[-1]
    dtype = _DTYPES.get(x.dtype)
    if width > WIDEST or dtype is None or x.numel() == 0:
        return reference.select(x, rule, value)
    if not (x.is_cuda or _INTERPRETED):
        raise SpecError(f"the triton backend needs a CUDA tensor (or TRITON_INTERPRET=1), got one on {x.device}")
    x = x.contiguous()
    if rule == "top_k":
        value = float(min(width, math.floor(value * width + 0.5)))
    y = torch.empty_like(x)
    kept = torch.empty(x.shape[:-1], dtype=torch.int32, device=x.device)
    grid = (x.numel() // width, 1, 1)
    if _INTERPRETED:
        block = max(triton.next_power_of_2(width), 16)
        _select[grid](x, y, kept, value, width, block, RULES[rule], dtype)
        return y, kept
    # Triton's own launcher looks every argument over on each call; what it would find is in the key.
    key = (rule, width, x.dtype, x.device.index, x.data_ptr() % 16 == 0)
    with torch.cuda.device(x.device):
        made = _compiled.get(key)
        if made is None:
            block = max(triton.next_power_of_2(width), 16)
            constants = (width, block, RULES[rule], dtype)
            kernel = _select[grid](x, y, kept, value, *constants, num_warps=_warps(block))
            _compiled[key] = kernel, constants
        else:
            kernel, constants = made
            kernel[grid](x, y, kept, value, *constants, stream=torch._C._cuda_getCurrentRawStream(x.device.index))
    return y, kept
